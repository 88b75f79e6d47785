"""Metrics from columns: each computed once, in an order in which those come first that others need."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import pandas as pd
from mlflow.metrics.base import MetricValue, standard_aggregations
from mlflow.models.evaluation.base import EvaluationMetric

from mlflow_llm_plugins.errors import InvalidInputError, LLMError
from mlflow_llm_plugins.evaluation.columns import Columns, arguments, is_legacy, missing_message, missing_parameters
from mlflow_llm_plugins.metrics.metric import LLMMetric, RowScores, is_missing

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Computed:
    """A metric and what came out."""

    metric: EvaluationMetric
    value: RowScores
    failure: str | None = None  # why the whole metric has no value

    @property
    def key(self) -> str:
        """The metric's name in results and tables, before any aggregate."""
        return key_of(self.metric)


def key_of(metric: EvaluationMetric) -> str:
    """`name/version`, or the name alone where the metric has no version."""
    return f"{metric.name}/{metric.version}" if metric.version else str(metric.name)


def prepare(metrics: Sequence[EvaluationMetric], columns: Columns) -> None:
    """Load what metrics ask, and refuse those that can never be computed, before the rows are answered.

    Raises:
        InvalidInputError: Names the metric, what it needs and what is there.
        LLMError: Of a model that a metric asks.
    """
    for metric in metrics:
        others = [other.name for other in metrics if other is not metric]
        if missing := missing_parameters(metric, columns, others):
            raise InvalidInputError(missing_message(metric, missing, columns))
    for metric in metrics:
        if isinstance(metric, LLMMetric) and metric.prepare is not None:
            metric.prepare(columns.measured.get("engine"))


def compute_all(metrics: Sequence[EvaluationMetric], columns: Columns) -> list[Computed]:
    """Compute metrics, in their order as far as they do not need one another; one that fails leaves the rest alone."""
    done: dict[str, Computed] = {}
    waiting = list(metrics)
    while waiting:
        ready = [metric for metric in waiting if not _needs(metric, columns, waiting)] or waiting
        values = {computed.metric.name: computed.value for computed in done.values()}
        metric = ready[0]
        done[key_of(metric)] = _computed(metric, columns, values)
        waiting.remove(metric)
    return [done[key_of(metric)] for metric in metrics]


def figures(computed: Sequence[Computed]) -> dict[str, float]:
    """All aggregates under MLflow's keys, and the main one of each metric of ours under the metric's bare name."""
    found: dict[str, float] = {}
    for each in computed:
        aggregates = each.value.aggregate_results or {}
        for name, value in aggregates.items():
            found[each.key if name == each.metric.name else f"{each.key}/{name}"] = value
        if isinstance(each.metric, LLMMetric) and each.metric.main in aggregates:
            found[each.metric.name] = aggregates[each.metric.main]
    return {name: float(value) for name, value in found.items() if _is_finite(value)}


def _needs(metric: EvaluationMetric, columns: Columns, waiting: Sequence[EvaluationMetric]) -> bool:
    """Whether another metric that is not computed yet must come first."""
    return bool(missing_parameters(metric, columns, [])) and any(other is not metric for other in waiting)


def _computed(metric: EvaluationMetric, columns: Columns, values: Mapping[str, MetricValue]) -> Computed:
    rows = len(columns.inputs)
    try:
        value = _evaluated(metric, columns, values)
    except LLMError as error:
        return _failed(metric, rows, str(error))
    except Exception as error:  # of a metric from outside; its message may repeat a row
        _logger.debug("Metric %r failed.", metric.name, exc_info=True)
        return _failed(metric, rows, f"it raised {type(error).__name__}")
    if value is None:
        return _failed(metric, rows, "it returned no value")
    return Computed(metric, value)


def _failed(metric: EvaluationMetric, rows: int, reason: str) -> Computed:
    _logger.warning("Metric %r has no value: %s", metric.name, reason)
    return Computed(metric, RowScores([math.nan] * rows, [reason] * rows, {}), reason)


def _evaluated(metric: EvaluationMetric, columns: Columns, values: Mapping[str, MetricValue]) -> RowScores | None:
    if isinstance(metric, LLMMetric):
        value: RowScores = metric.eval_fn(**arguments(metric, columns, values))
        return value
    if is_legacy(metric):
        figures_so_far = {name: value.aggregate_results for name, value in values.items()}
        return _row_scores(metric, metric.eval_fn(_table(columns), figures_so_far), [True] * len(columns.inputs))
    return _of_answered_rows(metric, columns, values)


def _of_answered_rows(
    metric: EvaluationMetric, columns: Columns, values: Mapping[str, MetricValue]
) -> RowScores | None:
    """A metric from outside knows nothing of rows without an answer, so it gets the others only."""
    answered = [not is_missing(prediction) for prediction in columns.predictions or ()]
    if not any(answered):
        raise InvalidInputError("no row has an answer")
    given = {name: _only(column, answered) for name, column in arguments(metric, columns, values).items()}
    return _row_scores(metric, metric.eval_fn(**given), answered)


def _only(column: Any, wanted: Sequence[bool]) -> Any:
    if not isinstance(column, pd.Series) or len(column) != len(wanted):
        return column
    return column[pd.array(list(wanted))].reset_index(drop=True)


def _table(columns: Columns) -> pd.DataFrame:
    """What MLflow's oldest kind of metric gets."""
    frame = pd.DataFrame({"prediction": list(columns.predictions or ())})
    return frame if columns.targets is None else frame.assign(target=list(columns.targets))


def _row_scores(metric: EvaluationMetric, value: Any, answered: Sequence[bool]) -> RowScores | None:
    """What a metric from outside returned, spread over all rows, with figures over the rows that have a number."""
    if isinstance(value, Real):
        return RowScores(None, None, {metric.name: float(value)})
    if not isinstance(value, MetricValue):
        return None
    scores = _spread(value.scores, answered, math.nan)
    aggregates = dict(value.aggregate_results or {})
    if not aggregates and scores is not None:
        numbers = [score for score in scores if isinstance(score, Real) and _is_finite(score)]
        aggregates = standard_aggregations(numbers) if numbers else {}
    return RowScores(scores, _spread(value.justifications, answered, None), aggregates)


def _spread(values: Sequence[Any] | None, answered: Sequence[bool], filler: Any) -> list[Any] | None:
    if values is None or len(values) != sum(answered):
        return None
    remaining = iter(values)
    return [next(remaining) if is_answered else filler for is_answered in answered]


def _is_finite(value: Any) -> bool:
    return isinstance(value, Real) and math.isfinite(value)
