"""Rows of predictions and targets, where a target is a text or a list of texts that are all right."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from mlflow_llm_plugins.metrics.metric import NotScoredError, Score, guarded, text_of


def scored_rows(
    score: Callable[[object, object], Score], predictions: Iterable[object], targets: Iterable[object]
) -> tuple[list[float], list[str | None]]:
    """Score rows one by one; whatever is wrong with one leaves the others alone.

    Unlike `metric.scored_each` it hands over the cells as they are: targets may be lists.

    Returns:
        A score a row, NaN where there is none, and the reason there or the score's note.
    """
    rows = [guarded(score, prediction, target) for prediction, target in zip(predictions, targets, strict=True)]
    return [value for value, _ in rows], [reason for _, reason in rows]


def scored_texts(
    score: Callable[[str, list[str]], Score], predictions: Iterable[object], targets: Iterable[object]
) -> tuple[list[float], list[str | None]]:
    """The same for scores of one text against one or more."""
    return scored_rows(
        lambda prediction, target: score(text_of(prediction, "prediction"), references_of(target)),
        predictions,
        targets,
    )


def references_of(cell: object) -> list[str]:
    """The texts of a target, at least one.

    Raises:
        NotScoredError: It is missing, an empty list, or holds something else than text.
    """
    if not is_list(cell):
        return [text_of(cell, "target")]
    texts = [text_of(item, "target") for item in cell]  # type: ignore[attr-defined]
    if not texts:
        raise NotScoredError("the target is an empty list")
    return texts


def is_list(cell: object) -> bool:
    """Whether a cell holds several values; a data frame read from Parquet has arrays there."""
    return isinstance(cell, list | tuple) or (isinstance(cell, np.ndarray) and cell.ndim > 0)
