"""Who judges: whom the metric or the environment names, or else the model under evaluation."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.metrics.engines import find_engine
from mlflow_llm_plugins.metrics.judge.question import JudgeBackend

_logger = logging.getLogger(__name__)

JUDGE_VARIABLE = "MLFLOW_LLM_JUDGE"
_THE_EVALUATED = "the model under evaluation"


class ChosenJudge:
    """The judge of one metric, and the record of who it was."""

    def __init__(self, name: str, judge: Any) -> None:
        """Look up who is named, and ask nobody yet.

        Args:
            name: Of the metric, for messages.
            judge: See `backends.backend_of`; None: what the environment variable MLFLOW_LLM_JUDGE names, now or when
                it is asked, else the model under evaluation.

        Raises:
            InvalidInputError: There is no such judge.
        """
        self._name = name
        self._of_variable: tuple[str, JudgeBackend] | None = None  # kept, so that what it has loaded is
        self._given = self._named() if judge is None else _backend_of(judge)
        self.record: dict[str, Any] = {}  # changed in place, since metrics hold it in their metadata
        if self._given is not None:
            self._tell(self._given)

    def prepare(self, engine: Any) -> None:
        """Before rows are answered: load a judge of this process, look whether others are there.

        Args:
            engine: Of the model under evaluation, if it has one.

        Raises:
            InvalidInputError: There is no judge.
            LLMError: The judge cannot be asked.
        """
        backend = self._given or self._named()
        if backend is None:
            self._require(engine)
        elif callable(check := getattr(backend, "check", None)):
            check()
            self._tell(backend)

    @contextmanager
    def asked(self, engine: Any) -> Iterator[JudgeBackend]:
        """The judge, and afterwards a record of what it turned out to be: its model, version, route.

        Args:
            engine: Of the model under evaluation, if it has one.

        Raises:
            InvalidInputError: There is no judge.
        """
        backend = self._given or self._named()
        if backend is None:
            yield self._evaluated(engine)
            return
        yield backend
        self._tell(backend)

    def _tell(self, backend: JudgeBackend, **more: Any) -> None:
        told = {**backend.describe(), **more}
        self.record.clear()
        self.record.update(told)

    def _named(self) -> JudgeBackend | None:
        """Whom the environment names now."""
        named = os.environ.get(JUDGE_VARIABLE)
        if not named:
            return None
        if self._of_variable is None or self._of_variable[0] != named:
            self._of_variable = named, _backend_of(named)
        return self._of_variable[1]

    def _evaluated(self, engine: Any) -> JudgeBackend:
        self._require(engine)
        from mlflow_llm_plugins.metrics.judge.backends.local import LocalJudge

        _logger.warning(
            "%s: the model under evaluation judges its own answers, as no judge was given. Models prefer what they "
            "would have written: give judge=... or set %s before you compare models.",
            self._name, JUDGE_VARIABLE,
        )  # fmt: skip
        backend = LocalJudge(engine)
        self._tell(backend, model=_THE_EVALUATED)
        return backend

    def _require(self, engine: Any) -> None:
        if find_engine(engine) is None:  # also where a column of the data has that name
            raise InvalidInputError(
                f"{self._name} needs a judge: give judge=..., for example 'models:/judge/1' or "
                f"'http://localhost:8000/v1', or set the environment variable {JUDGE_VARIABLE}. Only in the evaluator "
                "'llm' a model of the flavor quantized_llm can judge itself."
            )


def is_self_judging(metric: object) -> bool:
    """Whether it is a judge that nobody was named for, here or in the environment: each model would judge itself."""
    record = (getattr(metric, "metric_metadata", None) or {}).get("judge")
    is_unnamed = isinstance(record, dict) and (not record or record.get("model") == _THE_EVALUATED)
    return is_unnamed and not os.environ.get(JUDGE_VARIABLE)


def _backend_of(judge: Any) -> JudgeBackend:
    from mlflow_llm_plugins.metrics.judge.backends import backend_of

    return backend_of(judge)
