"""A check of one text, applied to a column: 1 where it finds nothing wrong, 0 with what it found, else no score."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from mlflow_llm_plugins.metrics.metric import RowScores, row_scores, scored_each

Check = Callable[[str], str | None]  # what is wrong, without the text's own words; None: nothing


def check_each(check: Check, predictions: Iterable[Any]) -> RowScores:
    """Scores of 1 and 0, with what is wrong as the justification; NaN with the reason where the check cannot tell.

    Args:
        check: Raises `NotScoredError` where it cannot tell.
        predictions: Cells of any kind; those that hold no text have no score.
    """
    rows = [_checked(check, cell) for cell in predictions]
    return row_scores([score for score, _ in rows], [reason for _, reason in rows])


def _checked(check: Check, cell: object) -> tuple[float, str | None]:
    problems: list[str] = []

    def score(text: str) -> float:
        problem = check(text)
        problems.extend([problem] if problem else [])
        return 0.0 if problem else 1.0

    (value,), (reason,) = scored_each(score, [cell])
    return value, reason or next(iter(problems), None)
