"""What rows are compared by: metrics with a score a row, and what the evaluator measures of each."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from mlflow.models.evaluation.base import EvaluationMetric
from numpy.typing import NDArray

from mlflow_llm_plugins.evaluation.comparison.bootstrap import Numbers
from mlflow_llm_plugins.evaluation.computing import key_of
from mlflow_llm_plugins.evaluation.results.file_store import MAIN
from mlflow_llm_plugins.metrics.metric import LLMMetric

# Measures in seconds.
SECONDS = frozenset(
    {"latency", "time_to_first_token", "inter_token_latency", "time_per_output_token", "loaded_latency"}
)

_TIMES = ("latencies", "times_to_first_token", "token_gaps", "times_per_output_token", "output_tokens_per_second")


@dataclass(frozen=True, slots=True)
class Measure:
    """A number a row, by its column in the results table."""

    name: str
    key: str  # of figures and columns
    column: str
    greater_is_better: bool | None  # None: neither is
    main: str | None = None  # the aggregate that stands for it
    kind: Literal["quality", "time", "length"] = "quality"
    reads_targets: bool = False
    metric: EvaluationMetric | None = None  # None: the evaluator measures it

    @property
    def figure_keys(self) -> tuple[str, ...]:
        """Where its main figure may be, the best first; those with MAIN are of file stores."""
        return self.name, f"{self.name}/{MAIN}", f"{self.key}/{MAIN}", f"{self.key}/mean", self.key

    @property
    def is_mean(self) -> bool:
        """Whether the main figure is the mean over rows."""
        return self.main in (None, "mean")

    @property
    def is_quality(self) -> bool:
        """Whether variants can be better by it, so no time, no length, and no number that is just one."""
        return self.kind == "quality" and self.greater_is_better is not None

    def scored(self, rows: pd.DataFrame) -> NDArray[np.bool_]:
        """The rows that its figures are of: those with a score, or, where rows have none, with an answer."""
        if (values := self.numbers(rows)) is not None:
            return ~np.isnan(values)
        labels = rows.get(self.column)
        if labels is not None and labels.notna().any():
            return np.asarray(labels.notna(), dtype=bool)
        return np.asarray(rows["error"].isna(), dtype=bool) if "error" in rows else np.ones(len(rows), dtype=bool)

    def numbers(self, rows: pd.DataFrame) -> Numbers | None:
        """One a row, NaN where there is none; None if the table has no number in this column."""
        return numbers(rows, self.column)

    def tokens(self, rows: pd.DataFrame) -> Numbers | None:
        """Tokens behind each row's score, of a perplexity; None for all else."""
        return numbers(rows, f"{self.key}/tokens") if self.main == self.name else None

    def bits_per_byte(self, rows: pd.DataFrame) -> Numbers | None:
        """Of each row, beside a perplexity."""
        return numbers(rows, f"{self.key}/bits_per_byte")


def measures_of(metrics: Iterable[EvaluationMetric]) -> list[Measure]:
    """A measure for each metric, and those of the evaluator itself."""
    found = [_measure(metric) for metric in metrics]
    return [
        *found,
        Measure("loaded_latency", "loaded_latency", "loaded_latency", False, kind="time"),
        Measure("completion_tokens", "completion_tokens", "completion_tokens", None, kind="length"),
    ]


def main_quality(measures: Sequence[Measure]) -> Measure | None:
    """The measure that quality is judged by unless the user names one: the first against targets, else the first."""
    qualities = [measure for measure in measures if measure.is_quality]
    return next((measure for measure in qualities if measure.reads_targets), qualities[0] if qualities else None)


def numbers(rows: pd.DataFrame, column: str) -> Numbers | None:
    """A column as floats, NaN where it holds no finite number; None if there is none at all."""
    if column not in rows.columns:
        return None
    values = pd.to_numeric(rows[column], errors="coerce").to_numpy(dtype=float, na_value=math.nan)
    values = np.where(np.isfinite(values), values, math.nan)
    return None if np.isnan(values).all() else values


def _measure(metric: EvaluationMetric) -> Measure:
    parameters = inspect.signature(metric.eval_fn).parameters
    key = key_of(metric)
    return Measure(
        name=str(metric.name),
        key=key,
        column=f"{key}/score",
        greater_is_better=metric.greater_is_better,
        main=metric.main if isinstance(metric, LLMMetric) else None,
        kind="time" if any(name in parameters for name in _TIMES) else "quality",
        reads_targets="targets" in parameters and parameters["targets"].default is inspect.Parameter.empty,
        metric=metric,
    )
