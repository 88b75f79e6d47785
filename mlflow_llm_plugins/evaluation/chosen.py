"""Which metrics an evaluation computes: those that were asked for, else those of the model type that are possible."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from mlflow.models.evaluation.base import EvaluationMetric

from mlflow_llm_plugins.evaluation.columns import Columns, missing_parameters, parameters_of
from mlflow_llm_plugins.evaluation.model_types import default_metrics
from mlflow_llm_plugins.metrics.metric import LLMMetric
from mlflow_llm_plugins.metrics.naming import metric_of, metrics_of

_logger = logging.getLogger(__name__)

_STOCK_LATENCY = "latency"  # MLflow's object only has the name: its default evaluator measures


def chosen_metrics(
    model_type: str | None,
    named: Sequence[Any] | None,
    extra: Iterable[Any],
    columns: Columns,
    has_engine: bool,
) -> list[EvaluationMetric]:
    """The metrics of an evaluation.

    Args:
        model_type: As the user gave it.
        named: The setting `metrics`; None: those of the model type.
        extra: `extra_metrics`; one of the same name takes the place of the model type's.
        columns: What there is to compute from.
        has_engine: Whether the model's probabilities can be read.

    Raises:
        InvalidInputError: An unknown name, no list, two metrics with the same keys, or an unknown model type.
    """
    asked = [_measured_here(metric) for metric in metrics_of(named, extra)]
    if named is not None:
        return asked
    names = {metric.name for metric in asked}
    defaults = [metric_of(name) for name in default_metrics(model_type) if name not in names]
    possible = [metric for metric in defaults if _is_possible(metric, columns, has_engine)]
    if left_out := [metric.name for metric in defaults if metric not in possible]:
        _logger.info("Without targets, or probabilities to read: left out are %s.", ", ".join(left_out))
    return [*possible, *asked]


def reads(metric: EvaluationMetric, parameters: Iterable[str]) -> bool:
    """Whether the metric has any of these parameters."""
    return not set(parameters).isdisjoint(parameters_of(metric))


def _is_possible(metric: EvaluationMetric, columns: Columns, has_engine: bool) -> bool:
    return not missing_parameters(metric, columns, []) and (has_engine or not reads(metric, ["engine"]))


def _measured_here(metric: EvaluationMetric) -> EvaluationMetric:
    """MLflow's own `latency()` as ours."""
    is_stock = metric.name == _STOCK_LATENCY and not isinstance(metric, LLMMetric)
    return metric_of(_STOCK_LATENCY) if is_stock else metric
