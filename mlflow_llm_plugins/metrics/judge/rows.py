"""Rows of the data as the judge reads them, and those that it cannot be asked about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow_llm_plugins.metrics.judge.columns import PREDICTIONS, TARGETS, cell_text
from mlflow_llm_plugins.metrics.judge.controls import Texts
from mlflow_llm_plugins.metrics.metric import NotScoredError

_ONE_OF = {PREDICTIONS: "prediction", TARGETS: "target", "inputs": "input"}


@dataclass(frozen=True, slots=True)
class Row:
    """A row; without texts it is not asked about, and `fault` says why."""

    texts: Texts | None
    target: str | None = None  # the known answer, whether the judge sees it or not
    fault: str | None = None


def read_rows(columns: Mapping[str, Sequence[Any]], targets: Sequence[Any] | None) -> list[Row]:
    """Read the cells of columns of one length.

    Args:
        columns: What the judge sees, by name.
        targets: Known answers, where the judge does not see them.
    """
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    known = columns.get(TARGETS, targets)
    return [_row(*pair) for pair in zip(rows, [None] * len(rows) if known is None else known, strict=True)]


def _row(cells: Mapping[str, Any], target: Any) -> Row:
    try:
        texts = {column: cell_text(cell, _ONE_OF.get(column, column)) for column, cell in cells.items()}
    except NotScoredError as reason:
        return Row(None, fault=str(reason))
    try:
        return Row(texts, cell_text(target, "target"))
    except NotScoredError:  # only control rows want it
        return Row(texts)
