"""The table of an evaluation: one row for each input, with columns as MLflow's UI expects them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from mlflow.metrics.base import MetricValue

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.evaluation.predictions.prediction import Prediction
from mlflow_llm_plugins.evaluation.results.cells import json_value

_logger = logging.getLogger(__name__)


def results_table(
    features: pd.DataFrame,
    targets: Iterable[Any] | None,
    targets_name: str | None,
    predictions: Sequence[Prediction],
    predictions_name: str | None,
    metrics: Mapping[str, MetricValue],
) -> pd.DataFrame:
    """Put an evaluation's rows together.

    Columns, in this order: those of `features`; the target; the prediction; the model's other outputs; for each
    metric `<key>/score`, `<key>/justification` and `<key>/<column>` for what else it says of a row; `prompt_tokens`,
    `completion_tokens` and `loaded_latency` (seconds, all rows in flight) where a row has them; `error`. A name that
    is taken gets a number: `error_2`.

    Args:
        features: What the model was asked, one row an input; cells may be conversations.
        targets: One a row; None: there are none.
        targets_name: Of their column; None for "target".
        predictions: One a row.
        predictions_name: Of their column; None for "outputs".
        metrics: Key, `name/version`, -> one score a row. A metric with another number of rows is left out with a
            warning.

    Returns:
        A frame whose cells JSON can hold: None where there is no value.

    Raises:
        InvalidInputError: Features, targets and predictions differ in length.
    """
    table = _Table(rows=len(predictions))
    for position, name in enumerate(features.columns):
        table.add(name, features.iloc[:, position])
    if targets is not None:
        table.add(targets_name or "target", targets)
    table.add(predictions_name or "outputs", [prediction.output for prediction in predictions])
    for name in dict.fromkeys(name for prediction in predictions for name in prediction.others):
        table.add(name, [prediction.others.get(name) for prediction in predictions])
    for key, value in metrics.items():
        _add_metric(table, key, value)
    _add_measured(table, predictions)
    return table.frame()


class _Table:
    """Columns of the same length and different names."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._columns: dict[str, list[Any]] = {}

    def add(self, name: object, values: Iterable[Any]) -> None:
        cells = [json_value(value) for value in values]
        if len(cells) != self._rows:
            raise InvalidInputError(
                f"Column {name!r} must have {self._rows} rows, one a prediction; got {len(cells)}."
            )
        self._columns[self._free(str(name))] = cells

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self._columns, dtype=object)  # or None becomes NaN, and integers beside it floats

    def _free(self, name: str) -> str:
        free, number = name, 1
        while free in self._columns:
            number += 1
            free = f"{name}_{number}"
        return free


def _add_metric(table: _Table, key: str, value: MetricValue) -> None:
    columns: dict[str, Any] = {
        "score": value.scores,
        "justification": value.justifications,
        **getattr(value, "columns", {}),
    }
    for name, cells in columns.items():
        if cells is None or not len(cells):  # only figures over all rows
            continue
        try:
            table.add(f"{key}/{name}", cells)
        except InvalidInputError as error:  # of a user's own metric
            _logger.warning("The results table goes without the metric: %s", error)


def _add_measured(table: _Table, predictions: Sequence[Prediction]) -> None:
    measured: dict[str, list[Any]] = {
        "prompt_tokens": [prediction.prompt_tokens for prediction in predictions],
        "completion_tokens": [prediction.completion_tokens for prediction in predictions],
        "loaded_latency": [prediction.latency for prediction in predictions],
    }
    for name, cells in measured.items():
        if any(cell is not None for cell in cells):
            table.add(name, cells)
    table.add("error", [prediction.error for prediction in predictions])
