"""A variant's main figure of a metric: of all its rows as it was logged, or of some of them."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlflow_llm_plugins.evaluation.comparison.measures import Measure
from mlflow_llm_plugins.evaluation.comparison.trial import Trial
from mlflow_llm_plugins.metrics.metric import LLMMetric

_logger = logging.getLogger(__name__)

Rows = NDArray[np.bool_]  # which of them


def main_figure(trial: Trial, measure: Measure) -> Any:
    """The figure that stands for a metric; None where the variant has none."""
    return next((trial.figures[key] for key in measure.figure_keys if key in trial.figures), None)


def common_rows(trials: Sequence[Trial], measure: Measure) -> Rows:
    """The rows that the figures of all these variants are of; none where their tables differ in length."""
    found = [measure.scored(trial.rows) for trial in trials if trial.rows is not None]
    if len({len(rows) for rows in found}) != 1:
        return np.zeros(0, dtype=bool)
    common: Rows = np.logical_and.reduce(found)
    return common


def figure_over(trial: Trial, measure: Measure, wanted: Rows) -> float:
    """The main figure of these rows; NaN where it cannot be computed from what was logged.

    A corpus metric of predictions and targets is computed again; one that asks a model is not.
    """
    if trial.rows is None or not wanted.any():
        return math.nan
    if np.array_equal(measure.scored(trial.rows), wanted):
        figure = main_figure(trial, measure)
        return math.nan if figure is None else float(figure)
    values, tokens = measure.numbers(trial.rows), measure.tokens(trial.rows)
    if values is not None and tokens is not None:
        return float(np.exp(np.sum(np.log(values[wanted]) * tokens[wanted]) / np.sum(tokens[wanted])))
    if values is not None and measure.is_mean:
        return float(np.mean(values[wanted]))
    return _computed_again(trial, measure, wanted)


def _computed_again(trial: Trial, measure: Measure, wanted: Rows) -> float:
    metric, rows = measure.metric, trial.rows
    if rows is None or not isinstance(metric, LLMMetric) or "judge" in (metric.metric_metadata or {}):
        return math.nan
    columns = {name: trial.columns.get(name) for name in inspect.signature(metric.eval_fn).parameters}
    if any(column is None or column not in rows or f"{column}_2" in rows for column in columns.values()):
        return math.nan  # it reads more than is known, or there is no telling which column is which
    try:
        scores = metric(**{name: list(rows[column][wanted]) for name, column in columns.items()})
    except Exception:  # of a library; the other figures are worth more
        _logger.debug("Metric %r could not be computed again.", metric.name, exc_info=True)
        return math.nan
    return float((scores.aggregate_results or {}).get(metric.main, math.nan))
