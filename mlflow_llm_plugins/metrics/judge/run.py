"""One evaluation by a judge: rows, control rows and content-free rows are asked together, and become scores."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.metrics.judge.columns import PREDICTIONS
from mlflow_llm_plugins.metrics.judge.controls import Control, ControlFigures, Texts, control_cases, control_figures
from mlflow_llm_plugins.metrics.judge.disarming import Disarmer
from mlflow_llm_plugins.metrics.judge.question import JudgeBackend, Opinion, Question
from mlflow_llm_plugins.metrics.judge.report import JudgedRow, report
from mlflow_llm_plugins.metrics.judge.rows import Row, read_rows
from mlflow_llm_plugins.metrics.judge.settings import JudgeSettings
from mlflow_llm_plugins.metrics.judge.suspicion import suspicions
from mlflow_llm_plugins.metrics.judge.verdict import (
    Probabilities,
    Verdict,
    both_orders,
    contextual_prior,
    fault_of,
    verdict_of,
)
from mlflow_llm_plugins.metrics.metric import RowScores

_logger = logging.getLogger(__name__)

_CONTENT_FREE = ("N/A", "", "[MASK]")  # Zhao et al., 2021


def judge_rows(
    settings: JudgeSettings, backend: JudgeBackend, columns: Mapping[str, Sequence[Any]], targets: Sequence[Any] | None
) -> RowScores:
    """Judge all rows.

    Args:
        settings: Criteria, scale and corrections.
        backend: Who is asked.
        columns: What the judge sees, by name, all of one length.
        targets: Known answers for the control rows; None where there are none.

    Raises:
        InvalidInputError: A correction was asked for that this backend cannot have.
        LLMError: Nothing can be asked at all.
    """
    return _Run(settings, backend, read_rows(columns, targets)).scores()


class _Run:
    def __init__(self, settings: JudgeSettings, backend: JudgeBackend, rows: Sequence[Row]) -> None:
        self._settings = settings
        self._prompt = settings.prompt
        self._backend = backend
        self._rows = rows
        self._asked = [row for row in rows if row.texts is not None]
        self._disarm = Disarmer(_control_tokens(backend)).disarm if self._asked else Disarmer().disarm
        self._two_orders = settings.bias_correction == "two_orders"

    def scores(self) -> RowScores:
        """Ask, and put the scores together."""
        if not self._asked:
            return report(self._settings, [JudgedRow(fault=row.fault) for row in self._rows], None, None)
        texts = [self._disarmed(row.texts) for row in self._asked if row.texts is not None]
        controls = self._controls()
        control_texts = [self._disarmed(control.texts) for control in controls]
        opinions, others = self._ask(texts, [*control_texts, *self._content_free()])
        prior = self._prior(others[len(controls) :])
        figures = self._figures(controls, others[: len(controls)], prior)
        found = iter(zip(texts, opinions, strict=True))
        judged = [self._judged(row, *next(found), prior) if row.texts is not None else JudgedRow(fault=row.fault)
                  for row in self._rows]  # fmt: skip
        return report(self._settings, judged, figures, self._applied(prior))

    def _controls(self) -> list[Control]:
        best = self._prompt.scale.best(self._settings.greater_is_better)
        is_possible = self._settings.control_rows and PREDICTIONS in self._prompt.columns
        if not is_possible or best is None or len(self._asked) < 2:
            return []
        rows = [row.texts for row in self._asked if row.texts is not None]
        return control_cases(rows, [row.target for row in self._asked], best.label)

    def _content_free(self) -> list[Texts]:
        if self._settings.bias_correction != "contextual":
            return []
        return [dict.fromkeys(self._prompt.columns, self._disarm(nothing)) for nothing in _CONTENT_FREE]

    def _ask(self, rows: Sequence[Texts], others: Sequence[Texts]) -> tuple[list[_Answer], list[_Answer]]:
        """One call of the backend, so that it can share what all have in common; two where rows get a rationale."""
        nonce = self._prompt.nonce(text for texts in (*rows, *others) for text in texts.values())
        asked = [self._prompt.question(texts, nonce) for texts in (*rows, *others)]
        again = [self._prompt.question(texts, nonce, is_reversed=True) for texts in (*rows, *others)]
        later = [*asked[len(rows) :], *(again if self._two_orders else [])]
        opinions = self._opinions(asked[: len(rows)], later)
        answers = [_Answer(*pair) for pair in zip_longest(opinions[: len(asked)], opinions[len(asked) :])]
        return answers[: len(rows)], answers[len(rows) :]

    def _opinions(self, rows: list[Question], others: list[Question]) -> list[Opinion]:
        if not self._settings.rationale:
            return self._heard([*rows, *others])
        return [*self._heard(rows, rationale=True), *(self._heard(others) if others else [])]

    def _heard(self, questions: list[Question], *, rationale: bool = False) -> list[Opinion]:
        opinions = self._backend.ask(questions, rationale=rationale)
        if len(opinions) != len(questions):
            raise InvalidInputError(
                f"{self._settings.name}: the judge {type(self._backend).__name__} gave {len(opinions)} opinions on "
                f"{len(questions)} questions; it must give one on each."
            )
        return opinions

    def _prior(self, answers: Sequence[_Answer]) -> Probabilities | None:
        """What options get without a case; None where that is not corrected for."""
        options = len(self._prompt.scale.options)
        usable = [answer.first for answer in answers if fault_of(answer.first, options) is None]
        prior = contextual_prior(usable)
        if prior is None and self._settings.is_correction_asked_for and usable:
            raise InvalidInputError(
                f"{self._settings.name}: bias_correction='contextual' needs a judge that tells probabilities, and "
                "this one gives verdicts only. Use bias_correction='two_orders' or 'none', or a model of the flavor "
                "quantized_llm."
            )
        if answers and not usable:
            _logger.warning(
                "%s: verdicts are not corrected for the bias of labels, as the judge failed on the rows without "
                "content: %s.", self._settings.name, answers[0].first.error,
            )  # fmt: skip
        return prior

    def _applied(self, prior: Probabilities | None) -> str:
        return "two_orders" if self._two_orders else "none" if prior is None else "contextual"

    def _verdict(self, answer: _Answer, prior: Probabilities | None) -> Verdict | str:
        """The verdict, or why there is none."""
        options = len(self._prompt.scale.options)
        for opinion in filter(None, (answer.first, answer.second)):
            if fault := fault_of(opinion, options):
                return fault
        if answer.second is not None:
            return both_orders(answer.first, answer.second, options)
        return verdict_of(answer.first, prior)

    def _figures(
        self, controls: Sequence[Control], answers: Sequence[_Answer], prior: Probabilities | None
    ) -> ControlFigures | None:
        if not controls:
            return None
        scale = self._prompt.scale
        verdicts = [self._verdict(answer, prior) for answer in answers]
        values = [None if isinstance(verdict, str) else verdict.value(scale) for verdict in verdicts]
        return control_figures(controls, values, scale.span, self._settings.greater_is_better)

    def _judged(self, row: Row, disarmed: Texts, answer: _Answer, prior: Probabilities | None) -> JudgedRow:
        verdict = self._verdict(answer, prior)
        given = row.texts or {}
        suspicious = ""
        if PREDICTIONS in given:
            suspicious = suspicions(given[PREDICTIONS], disarmed[PREDICTIONS], row.target)
        if isinstance(verdict, str):
            return JudgedRow(fault=verdict, suspicious=suspicious)
        return JudgedRow(verdict=verdict, suspicious=suspicious)

    def _disarmed(self, texts: Texts) -> Texts:
        return {column: self._disarm(text) for column, text in texts.items()}


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the backend said to one case, and to the same with the options in reverse where that was asked."""

    first: Opinion
    second: Opinion | None


def _control_tokens(backend: JudgeBackend) -> Sequence[str]:
    """What the judge's own tokenizer takes for control tokens, where the backend knows it."""
    tell = getattr(backend, "control_tokens", None)
    return list(tell()) if callable(tell) else []
