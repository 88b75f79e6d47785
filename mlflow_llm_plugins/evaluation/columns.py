"""What metrics can be computed from, found by the names of their parameters, as MLflow's own evaluators do."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from mlflow.models.evaluation.base import EvaluationMetric

from mlflow_llm_plugins.lookup import did_you_mean


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

    def find(self, parameter: str) -> Any:
        """The column for a parameter, a pandas Series where it has one value a row.

        Raises:
            KeyError: There is none.
        """
        name = self.mapping.get(parameter, parameter)
        if not isinstance(name, str):
            return name
        if name in ("predictions", self.predictions_name):
            return None if self.predictions is None else pd.Series(list(self.predictions), dtype=object)
        if name in ("targets", self.targets_name) and self.targets is not None:
            return pd.Series(list(self.targets), dtype=object)
        if name in self.inputs.columns:
            return self.inputs[name]
        if name in self.outputs:
            return pd.Series(list(self.outputs[name]), dtype=object)
        return self.measured[name]

    def names(self) -> list[str]:
        """What can be found."""
        own = ["predictions", *(["targets"] if self.targets is not None else [])]
        return [*own, *map(str, self.inputs.columns), *self.outputs]


def missing_parameters(metric: EvaluationMetric, columns: Columns, others: Sequence[str]) -> list[str]:
    """The parameters of a metric that nothing is there for.

    Args:
        metric: Any evaluator's.
        columns: Of the data, whether predictions are made or not.
        others: Names of the other metrics of the evaluation.
    """
    parameters = _parameters(metric)
    if is_legacy(metric):
        return []
    needed = [name for name, parameter in parameters.items() if parameter.default is inspect.Parameter.empty]
    return [name for name in needed if not (name in others or name == "metrics" or _has(columns, name))]


def missing_message(metric: EvaluationMetric, missing: Sequence[str], columns: Columns) -> str:
    """What to say when a metric cannot be computed."""
    names = columns.names()
    said = [f"{name!r}{'' if name == 'targets' else did_you_mean(name, names)}" for name in missing]
    remedy = (
        "give targets=..., the name of the column of references"
        if list(missing) == ["targets"]
        else f"map it to a column by evaluator_config={{'col_mapping': {{{missing[0]!r}: ...}}}}"
    )
    return f"Metric {metric.name!r} needs {', '.join(said)}: {remedy}. There are: {', '.join(names)}."


def is_legacy(metric: EvaluationMetric) -> bool:
    """Whether the metric takes a table of predictions and targets, and the figures so far."""
    names = list(_parameters(metric))
    return len(names) == 2 and names[0] != "predictions" and names[1] != "targets"


def arguments(metric: EvaluationMetric, columns: Columns, values: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a metric whose parameters are all there; those with a default that are not keep it.

    Args:
        metric: Any evaluator's.
        columns: With predictions.
        values: Results of metrics computed before, by their names.
    """
    found = {}
    for name in _parameters(metric):
        if name == "metrics":
            found[name] = dict(values)
        elif _has(columns, name):
            found[name] = columns.find(name)
        elif name in values:
            found[name] = values[name]
    return found


def _parameters(metric: EvaluationMetric) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(metric.eval_fn).parameters


def _has(columns: Columns, name: str) -> bool:
    try:
        columns.find(name)
    except KeyError:
        return False
    return True
