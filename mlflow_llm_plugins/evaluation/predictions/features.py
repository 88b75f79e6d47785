"""What models are asked with: the data without targets and predictions, and the column that language models read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.lookup import did_you_mean

# Columns that hold what a model is asked with, by the names that data sets give it.
INPUT_COLUMNS = (
    *("messages", "prompt", "inputs", "input", "question", "query"),
    *("instruction", "text", "document", "article"),
)
_SETTING = "evaluator_config={'col_mapping': {'inputs': ...}}"


@dataclass(frozen=True, slots=True)
class Features:
    """Rows of a DataFrame or an array; not changed.

    Raises:
        InvalidInputError: Several columns have the same name, so nobody could tell which one is meant.
    """

    data: pd.DataFrame | np.ndarray[Any, Any]
    names: Sequence[str] | None = None  # of an array's columns

    def __post_init__(self) -> None:
        """Check the names."""
        names = () if self.names is None else self.names
        columns = self.data.columns if isinstance(self.data, pd.DataFrame) else pd.Index(names)
        if columns.has_duplicates:
            raise several_columns(columns[columns.duplicated()][0])

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.data)

    def row(self, index: int) -> Any:
        """A table or array of the one row, a copy."""
        if isinstance(self.data, pd.DataFrame):
            return self.data.iloc[[index]].copy()
        return self.data[index : index + 1].copy()

    def inputs(self, wanted: str | None) -> list[Any]:
        """The cells that language models are asked with.

        Args:
            wanted: The column; None takes the only one, or the only one that has a name of `INPUT_COLUMNS`.

        Raises:
            InvalidInputError: There is no such column, or several may be meant; says how to name it.
        """
        frame = self._frame()
        return [_plain(cell) for cell in frame[_column(list(frame.columns), wanted)]]

    def _frame(self) -> pd.DataFrame:
        if isinstance(self.data, pd.DataFrame):
            return self.data
        cells = self.data if self.data.ndim == 2 else self.data.reshape(len(self.data), -1)
        names = self.names if self.names is not None and len(self.names) == cells.shape[1] else None
        return pd.DataFrame(cells, columns=None if names is None else list(names))


def several_columns(name: object) -> InvalidInputError:
    """The error of data in which a name stands for more than one column."""
    return InvalidInputError(f"data has several columns {name!r}; rename them.")


def likely_inputs(columns: Sequence[Any], *, is_asked: bool = True) -> list[Any]:
    """The columns that may be what a model is asked with; where one is asked, the only column is it."""
    if is_asked and len(columns) == 1:
        return list(columns)
    return [name for name in columns if name in INPUT_COLUMNS]


def _column(columns: Sequence[Any], wanted: str | None) -> Any:
    there = ", ".join(map(repr, columns)) or "none"
    if wanted is not None:
        if wanted in columns:
            return wanted
        hint = did_you_mean(wanted, map(str, columns))
        raise InvalidInputError(f"There is no column {wanted!r} to ask the model with.{hint} There are: {there}.")
    likely = likely_inputs(columns)
    if len(likely) != 1:
        raise InvalidInputError(
            f"Which column is the model asked with? There are: {there}. Name it by {_SETTING}, leave only one, or "
            f"call one of them {', '.join(INPUT_COLUMNS[:3])} or {INPUT_COLUMNS[4]}."
        )
    return likely[0]


def _plain(cell: Any) -> Any:
    """Arrays, which Parquet makes of lists, as lists, also inside conversations."""
    if isinstance(cell, np.ndarray | np.generic):
        cell = cell.tolist()
    if isinstance(cell, Mapping):
        return {name: _plain(value) for name, value in cell.items()}
    return [_plain(item) for item in cell] if isinstance(cell, list | tuple) else cell
