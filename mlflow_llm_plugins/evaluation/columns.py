"""What metrics can be computed from, found by the names of their parameters, as MLflow's own evaluators do."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from mlflow.models.evaluation.base import EvaluationMetric

from mlflow_llm_plugins.lookup import did_you_mean
from mlflow_llm_plugins.metrics.metric import LLMMetric


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns by name, each with one value a row."""

    inputs: pd.DataFrame
    targets: Sequence[Any] | None = None
    targets_name: str | None = None
    predictions: Sequence[Any] | None = None  # None: not made yet
    predictions_name: str | None = None
    outputs: Mapping[str, Sequence[Any]] = field(default_factory=dict)  # other columns of the model's output
    measured: Mapping[str, Any] = field(default_factory=dict)  # of this evaluator: latencies and the engine
    mapping: Mapping[str, Any] = field(default_factory=dict)  # parameter -> column's name, or a column

    def find(self, parameter: str, metric: EvaluationMetric) -> Any:
        """The argument for a parameter of a metric, a pandas Series where it has one value a row.

        Metrics of this package get what the evaluator measured, whatever columns of that name the data have.

        Raises:
            KeyError: There is none.
        """
        name = self.mapping.get(parameter, parameter)
        if not isinstance(name, str):
            return name
        if name in ("predictions", self.predictions_name):
            return None if self.predictions is None else _series(self.predictions)
        if name in ("targets", self.targets_name) and self.targets is not None:
            return _series(self.targets)
        if name in self.measured and parameter not in self.mapping and isinstance(metric, LLMMetric):
            return self.measured[name]
        if name in self.inputs.columns:
            return self.inputs[name]
        if name in self.outputs:
            return _series(self.outputs[name])
        return self.measured[name]

    def has(self, parameter: str, metric: EvaluationMetric) -> bool:
        """Whether there is an argument for the parameter."""
        try:
            self.find(parameter, metric)
        except KeyError:
            return False
        return True

    def names(self) -> list[str]:
        """What can be found."""
        own = ["predictions", *(["targets"] if self.targets is not None else [])]
        return [*own, *map(str, self.inputs.columns), *self.outputs]


def missing_parameters(metric: EvaluationMetric, columns: Columns, others: Iterable[str]) -> list[str]:
    """The parameters of a metric that nothing is there for.

    Args:
        metric: Any evaluator's.
        columns: Of the data, whether predictions are made or not.
        others: Names of metrics that it may get the results of.
    """
    if is_legacy(metric):
        return []
    parameters = parameters_of(metric)
    needed = [name for name, parameter in parameters.items() if parameter.default is inspect.Parameter.empty]
    return [name for name in needed if not (name == "metrics" or name in others or columns.has(name, metric))]


def missing_message(metric: EvaluationMetric, missing: Sequence[str], columns: Columns) -> str:
    """What to say when a metric cannot be computed."""
    names = columns.names()
    there = f"There are: {', '.join(names)}."
    if mapped := [name for name in missing if name in columns.mapping]:
        wrong = columns.mapping[mapped[0]]
        problem = f"There is no column {wrong!r}, which col_mapping names for it.{did_you_mean(wrong, names)}"
        return f"Metric {metric.name!r} needs {mapped[0]!r}. {problem} {there}"
    said = [f"{name!r}{'' if name == 'targets' else did_you_mean(name, names)}" for name in missing]
    remedy = (
        "give targets=..., the name of the column of references"
        if list(missing) == ["targets"]
        else f"map it to a column by evaluator_config={{'col_mapping': {{{missing[0]!r}: ...}}}}"
    )
    return f"Metric {metric.name!r} needs {', '.join(said)}: {remedy}. {there}"


def is_legacy(metric: EvaluationMetric) -> bool:
    """Whether the metric takes a table of predictions and targets, and the figures so far."""
    names = list(parameters_of(metric))
    return len(names) == 2 and names[0] != "predictions" and names[1] != "targets"


def parameters_of(metric: EvaluationMetric) -> Mapping[str, inspect.Parameter]:
    """Of the metric's function, by name."""
    return inspect.signature(metric.eval_fn).parameters


def _series(values: Sequence[Any]) -> pd.Series:
    return pd.Series(list(values), dtype=object)
