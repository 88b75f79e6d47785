"""The model that judges, loaded when it is first asked, and what it writes about a verdict."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.metrics.judge.question import Opinion, Question
from mlflow_llm_plugins.metrics.models import ModelHandle

_logger = logging.getLogger(__name__)

_RATIONALE_TOKENS = 96


class JudgeModel:
    """A model by its URI, or as it is. Thread-safe."""

    def __init__(self, model: Any) -> None:
        """Take the model; see `LocalJudge`."""
        self._given = model
        self._handle = ModelHandle(model, "judge=...")
        self.engine = self._handle.engine
        self.close = self._handle.close

    def record(self) -> dict[str, str]:
        """What the model is called, and once it is loaded what that stood for then."""
        return {"model": self._handle.name, **self._handle.origin}

    def check_writes(self) -> None:
        """Refuse a model that can be asked for probabilities only.

        Raises:
            InvalidInputError: It is an engine, which this package's metrics ask for no text.
        """
        if not isinstance(self._given, str) and not hasattr(self._given, "predict"):
            raise InvalidInputError(
                "rationale=True needs a judge that can write: give the URI of a model, or the model as "
                f"mlflow.pyfunc.load_model gives it, as judge=..., got {type(self._given).__name__}."
            )

    def explained(
        self, questions: Sequence[Question], opinions: Sequence[Opinion], *, progress: bool = True
    ) -> list[Opinion]:
        """The opinions, each that is no error with a sentence on why; where that fails, without."""
        judged = [(q, o) for q, o in zip(questions, opinions, strict=True) if o.choice is not None]
        texts = iter(self._write([_why(*pair) for pair in judged], progress=progress))
        return [replace(opinion, rationale=next(texts)) if opinion.choice is not None else opinion
                for opinion in opinions]  # fmt: skip

    def _write(self, prompts: Sequence[str], *, progress: bool) -> list[str | None]:
        """An answer a prompt; rows fail alone where the model can do that, else all together."""
        if not prompts:
            return []
        model, params = self._handle.model(), {"max_tokens": _RATIONALE_TOKENS, "temperature": 0.0}
        each = getattr(getattr(model, "_model_impl", None), "predict_each", None)
        try:
            answers = each(list(prompts), params, progress=progress) if each else model.predict(list(prompts), params)
        except Exception as error:  # of whatever model this is; the verdicts stand without
            _logger.warning("The judge wrote no rationale: %s", type(error).__name__)
            _logger.debug("The judge wrote no rationale.", exc_info=True)
            return [None] * len(prompts)
        return [_written(answer) for answer in answers]


def _why(question: Question, opinion: Opinion) -> str:
    label = question.options[opinion.choice or 0].label
    return replace(
        question, reminder=f"The verdict was: {label}. Say in one sentence why, by the criteria, and nothing else:"
    ).text()


def _written(answer: Any) -> str | None:
    text = answer if isinstance(answer, str) else getattr(answer, "text", None)
    return text.strip() or None if isinstance(text, str) else None
