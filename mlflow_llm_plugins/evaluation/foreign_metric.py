"""Metrics from outside, called as MLflow's default evaluator calls them, but only with rows that have an answer."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import pandas as pd
from mlflow.metrics.base import MetricValue, standard_aggregations
from mlflow.models.evaluation.base import EvaluationMetric

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.evaluation.columns import Columns, is_legacy, parameters_of
from mlflow_llm_plugins.metrics.metric import RowScores, is_missing

_logger = logging.getLogger(__name__)


def evaluated(
    metric: EvaluationMetric,
    columns: Columns,
    by_name: Mapping[str, MetricValue],
    by_key: Mapping[str, MetricValue],
    figures: Mapping[str, float],
) -> RowScores | None:
    """Call the metric with the rows that have an answer, as it knows nothing of others.

    Args:
        metric: Whose parameters are all there.
        columns: With predictions.
        by_name: Results of other metrics, for parameters with their names.
        by_key: The same by `name/version`, for a parameter `metrics`.
        figures: Their aggregates, for MLflow's oldest kind of metric.

    Returns:
        Scores spread over all rows; None where the metric returned nothing that counts.

    Raises:
        InvalidInputError: No row has an answer.
    """
    answered = [not is_missing(prediction) for prediction in columns.predictions or ()]
    if not any(answered):
        raise InvalidInputError("no row has an answer")
    if is_legacy(metric):
        arguments: list[Any] = [_table(columns, answered), dict(figures)]
        return _row_scores(metric, metric.eval_fn(*arguments), answered)
    found = {"metrics": dict(by_key)} | {
        name: _only(columns.find(name, metric), answered)
        for name in parameters_of(metric)
        if name != "metrics" and columns.has(name, metric)
    }
    positional, named = _bound(metric, {**by_name, **found})
    return _row_scores(metric, metric.eval_fn(*positional, **named), answered)


def _bound(metric: EvaluationMetric, found: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """By position, as MLflow calls: names are for people there, and a function may take others or none."""
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for name, parameter in parameters_of(metric).items():
        value = found.get(name, parameter.default) if name in found else parameter.default
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            named[name] = value
        else:
            positional.append(value)
    return positional, named


def _only(column: Any, wanted: Sequence[bool]) -> Any:
    """The wanted rows, with the type of cells that pandas finds: scikit-learn refuses objects."""
    if not isinstance(column, pd.Series) or len(column) != len(wanted):
        return column
    return column[list(wanted)].reset_index(drop=True).infer_objects()


def _table(columns: Columns, answered: Sequence[bool]) -> pd.DataFrame:
    frame = pd.DataFrame({"prediction": list(columns.predictions or ())})
    if columns.targets is not None:
        frame = frame.assign(target=list(columns.targets))
    return frame[list(answered)].reset_index(drop=True)


def _row_scores(metric: EvaluationMetric, value: Any, answered: Sequence[bool]) -> RowScores | None:
    if isinstance(value, Real):
        return RowScores(None, None, {metric.name: float(value)})
    if not isinstance(value, MetricValue):
        return None
    scores = _spread(metric, value.scores, answered, math.nan)
    aggregates = _aggregates(metric, value.aggregate_results, scores)
    return RowScores(scores, _spread(metric, value.justifications, answered, None), aggregates)


def _aggregates(
    metric: EvaluationMetric, given: Mapping[str, Any] | None, scores: Sequence[Any] | None
) -> dict[str, Any]:
    """The metric's own, else MLflow's; with the number of scores, as metrics of this package have it.

    None beside a figure that has the metric's own name: other evaluators log it under that key, which a file store
    cannot hold beside `name/count`.
    """
    if scores is None or metric.name in (given or {}):
        return dict(given or {})
    if given:
        return {"count": sum(not is_missing(score) for score in scores), **given}
    numbers = [float(score) for score in scores if isinstance(score, Real) and math.isfinite(score)]
    return {**standard_aggregations(numbers), "count": len(numbers)} if numbers else {}


def _spread(
    metric: EvaluationMetric, values: Sequence[Any] | None, answered: Sequence[bool], filler: Any
) -> list[Any] | None:
    if values is None:
        return None
    if len(values) != sum(answered):
        _logger.warning(
            "The table goes without the rows of metric %r: it gave %d values for %d rows.",
            *(metric.name, len(values), sum(answered)),
        )
        return None
    remaining = iter(values)
    return [next(remaining) if is_answered else filler for is_answered in answered]
