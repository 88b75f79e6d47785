"""The backend: questions to token ids, one call of the engine for many rows, log-probabilities to opinions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from mlflow_llm_plugins.metrics.engines import ScoringEngine
from mlflow_llm_plugins.metrics.judge.backends.local.judge_model import JudgeModel
from mlflow_llm_plugins.metrics.judge.backends.local.reader import Prepared, Reader, control_strings
from mlflow_llm_plugins.metrics.judge.question import Opinion, Question

_ROWS_A_CALL = 64  # the engine keeps what they have in common for the next call
_FEW = 16  # up to so many questions nobody wants a progress bar


class LocalJudge:
    """Asks a model of the flavor `quantized_llm`; may be used from any thread."""

    def __init__(self, model: Any) -> None:
        """Take the model, and load nothing yet.

        Args:
            model: Its URI; or such a model as `mlflow.pyfunc.load_model` gives it; or an engine.
        """
        self._model = JudgeModel(model)

    def ask(self, questions: Sequence[Question], *, rationale: bool = False, progress: bool = True) -> list[Opinion]:
        """One opinion a question, in order; see `JudgeBackend`.

        Raises:
            InvalidInputError: No such model, one that cannot be asked like this, or one that can write no rationale.
            EngineUnavailableError: The engine was closed.
        """
        if rationale:
            self._model.check_writes()
        engine = self._model.engine()
        opinions = self._verdicts(engine, questions, progress=progress)
        return self._model.explained(questions, opinions, progress=progress) if rationale else opinions

    def check(self) -> None:
        """Load the model.

        Raises:
            InvalidInputError: There is no such model, or one that cannot be asked.
        """
        self._model.engine()

    def control_tokens(self) -> list[str]:
        """What the tokenizer would take for control tokens, so must not stand in a text that is judged."""
        return control_strings(self._model.engine().tokenizer)

    def describe(self) -> Mapping[str, Any]:
        """The model; it is not loaded for this, but once it is its version is told, too."""
        return {"backend": "local", **self._model.record()}

    def close(self) -> None:
        """Free the model if it was loaded here."""
        self._model.close()

    def _verdicts(self, engine: ScoringEngine, questions: Sequence[Question], *, progress: bool) -> list[Opinion]:
        prepared = Reader(engine.tokenizer, engine.stats().max_context_length).prepare(questions)
        opinions = [Opinion(error=row.fault) for row in prepared]
        ready = [i for i, row in enumerate(prepared) if row.fault is None]
        with _bar(len(ready), progress) as bar:
            for indices in _calls(ready, questions):
                for i, opinion in zip(indices, _asked(engine, [prepared[i] for i in indices]), strict=True):
                    opinions[i] = opinion
                bar.update(len(indices))
        return opinions


def _asked(engine: ScoringEngine, rows: Sequence[Prepared]) -> list[Opinion]:
    scores = engine.choose([row.stem for row in rows], [row.tails for row in rows])
    return [_opinion(tuple(map(float, of_row))) for of_row in scores]


def _opinion(logprobs: tuple[float, ...]) -> Opinion:
    if any(map(math.isnan, logprobs)) or max(logprobs) == -math.inf:
        return Opinion(error="the judge's log-probabilities are no numbers")
    choice = max(range(len(logprobs)), key=logprobs.__getitem__)
    return Opinion(choice=choice, logprobs=logprobs, choice_mass=math.fsum(map(math.exp, logprobs)))


def _calls(rows: Sequence[int], questions: Sequence[Question]) -> Iterator[list[int]]:
    """Indices of the rows of each call: those that begin with the same instructions, a bounded number at once."""
    for _, group in groupby(rows, key=lambda i: questions[i].instructions):
        same = list(group)
        yield from (same[start : start + _ROWS_A_CALL] for start in range(0, len(same), _ROWS_A_CALL))


def _bar(total: int, progress: bool) -> Any:
    from tqdm import tqdm  # comes with transformers, which every engine needs

    disable = None if progress and total > _FEW else True  # None: shown on a terminal only
    return tqdm(total=total, unit="row", desc="Judging", disable=disable)
