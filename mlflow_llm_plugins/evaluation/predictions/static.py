"""Predictions that were made before; nothing is asked and nothing measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.evaluation.predictions.prediction import Prediction
from mlflow_llm_plugins.metrics.metric import is_missing


@dataclass(frozen=True, slots=True)
class StaticSource:
    """One finished answer a row."""

    outputs: Sequence[Any]

    @classmethod
    def of(cls, outputs: Iterable[Any], rows: int) -> StaticSource:
        """Take the column.

        Raises:
            InvalidInputError: It has another number of rows than the data.
        """
        cells = list(outputs)
        if len(cells) != rows:
            raise InvalidInputError(f"There are {len(cells)} predictions for {rows} rows; give one for each row.")
        return cls(cells)

    @property
    def can_stream(self) -> bool:
        """Nothing is measured."""
        return False

    @property
    def runs_here(self) -> bool:
        """Nothing runs."""
        return False

    @property
    def gives_columns(self) -> bool:
        """All columns are in the data."""
        return False

    def predict_all(self, *, progress: bool = True) -> list[Prediction]:
        """See `Source`."""
        return [_prediction(output) for output in self.outputs]

    def predict_unloaded(self, size: int, seed: int = 0, *, progress: bool = True) -> list[Prediction | None]:
        """None for each row."""
        return [None] * len(self.outputs)

    def describe(self) -> dict[str, Any]:
        """See `Source`."""
        return {"source": "static"}


def _prediction(output: Any) -> Prediction:
    return Prediction(error="the prediction is missing") if is_missing(output) else Prediction(output=output)
