"""Metrics from columns: each computed once, in an order in which those come first that others need."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from mlflow.models.evaluation.base import EvaluationMetric

from mlflow_llm_plugins.errors import InvalidInputError, LLMError
from mlflow_llm_plugins.evaluation.columns import Columns, missing_message, missing_parameters, parameters_of
from mlflow_llm_plugins.evaluation.foreign_metric import evaluated
from mlflow_llm_plugins.evaluation.results.run_figures import FIGURES
from mlflow_llm_plugins.metrics.metric import LLMMetric, RowScores

_logger = logging.getLogger(__name__)

RESERVED = FIGURES  # names that no metric may have


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


@dataclass(frozen=True, slots=True)
class Results:
    """What was computed so far, as metrics that build on others get it."""

    done: dict[str, Computed] = field(default_factory=dict)  # by key

    @property
    def by_key(self) -> dict[str, RowScores]:
        """For a parameter `metrics`, as MLflow gives it."""
        return {key: computed.value for key, computed in self.done.items()}

    @property
    def by_name(self) -> dict[str, RowScores]:
        """For a parameter that has the name of a metric."""
        return {computed.metric.name: computed.value for computed in self.done.values()}

    @property
    def figures(self) -> dict[str, float]:
        """For MLflow's oldest kind of metric."""
        return figures(list(self.done.values()), with_bare_names=False)


def key_of(metric: EvaluationMetric) -> str:
    """`name/version`, or the name alone where the metric has no version."""
    return f"{metric.name}/{metric.version}" if metric.version else str(metric.name)


def prepare(metrics: Sequence[EvaluationMetric], columns: Columns, *, more_columns: bool) -> None:
    """Load what metrics ask, and refuse those that can never be computed, before the rows are answered.

    Args:
        metrics: Of the evaluation.
        columns: Without predictions.
        more_columns: Whether the model may give columns besides its answers; what is missing now may come with them.

    Raises:
        InvalidInputError: Names the metric, what it needs and what is there.
        LLMError: Of a model that a metric asks.
    """
    for metric in metrics:
        if metric.name in RESERVED:
            raise InvalidInputError(f"No metric may be called {metric.name!r}: the evaluator has figures of it.")
        missing = missing_parameters(metric, columns, _others(metric, metrics))
        if missing and not (more_columns and "targets" not in missing):
            raise InvalidInputError(missing_message(metric, missing, columns))
    for metric in metrics:
        if isinstance(metric, LLMMetric) and metric.prepare is not None:
            metric.prepare(columns.measured.get("engine"))


def compute_all(metrics: Sequence[EvaluationMetric], columns: Columns) -> list[Computed]:
    """Compute metrics, in their order as far as they do not need one another; one that fails leaves the rest alone."""
    results = Results()
    waiting = list(metrics)
    while waiting:
        ready = (metric for metric in waiting if not missing_parameters(metric, columns, results.by_name))
        metric = next(ready, waiting[0])
        results.done[key_of(metric)] = _computed(metric, columns, results)
        waiting.remove(metric)
    return [results.done[key_of(metric)] for metric in metrics]


def figures(computed: Sequence[Computed], *, with_bare_names: bool = True) -> dict[str, float]:
    """All aggregates under MLflow's keys, and the main one of each metric of ours under the metric's bare name."""
    found: dict[str, Any] = {}
    for each in computed:
        aggregates: Mapping[str, Any] = each.value.aggregate_results or {}
        for name, value in aggregates.items():
            found[each.key if name == each.metric.name else f"{each.key}/{name}"] = value
        if with_bare_names and isinstance(each.metric, LLMMetric) and each.metric.main in aggregates:
            found[each.metric.name] = aggregates[each.metric.main]
    return {name: float(value) for name, value in found.items() if isinstance(value, Real) and math.isfinite(value)}


def _others(metric: EvaluationMetric, metrics: Sequence[EvaluationMetric]) -> list[str]:
    return [other.name for other in metrics if other is not metric]


def _computed(metric: EvaluationMetric, columns: Columns, results: Results) -> Computed:
    rows = len(columns.inputs)
    if missing := missing_parameters(metric, columns, results.by_name):
        return _failed(metric, rows, missing_message(metric, missing, columns))
    try:
        value = _evaluated(metric, columns, results)
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


def _evaluated(metric: EvaluationMetric, columns: Columns, results: Results) -> RowScores | None:
    if not isinstance(metric, LLMMetric):
        return evaluated(metric, columns, results.by_name, results.by_key, results.figures)
    given = {name: columns.find(name, metric) for name in parameters_of(metric) if columns.has(name, metric)}
    value: RowScores | None = metric.eval_fn(**given)
    return value
