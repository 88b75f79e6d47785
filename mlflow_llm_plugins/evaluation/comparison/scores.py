"""Each variant's own scores with their intervals, also by groups of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlflow_llm_plugins.evaluation.comparison.bootstrap import (
    BootstrapOptions,
    Interval,
    mean_interval,
    quotient_interval,
)
from mlflow_llm_plugins.evaluation.comparison.measures import Measure
from mlflow_llm_plugins.evaluation.comparison.trial import Trial


@dataclass(frozen=True, slots=True)
class Score:
    """One variant's figure; a line of the table."""

    metric: str
    variant: str
    group: str | None
    statistic: str
    greater_is_better: bool | None
    n: int
    value: float
    low: float
    high: float
    method: str | None


def scores_table(
    trials: Sequence[Trial], measures: Sequence[Measure], groups: Sequence[str] | None, options: BootstrapOptions
) -> pd.DataFrame:
    """A line for each metric, variant and group that has a number.

    Args:
        trials: Those without rows are left out.
        measures: In the order of the table.
        groups: Of each row; None: all rows are one.
        options: Of the intervals.
    """
    done = [trial for trial in trials if trial.rows is not None]
    lines = [line for measure in measures for trial in done for line in _scores(trial, measure, groups, options)]
    return pd.DataFrame([asdict(line) for line in lines], columns=list(Score.__dataclass_fields__), dtype=object)


def _scores(
    trial: Trial, measure: Measure, groups: Sequence[str] | None, options: BootstrapOptions
) -> Iterator[Score]:
    rows = trial.rows
    if rows is None or (values := measure.numbers(rows)) is None:
        return
    tokens = measure.tokens(rows)
    for group, members in _members(groups, len(rows)):
        valid = members & ~np.isnan(values)
        if not valid.any():
            continue
        if tokens is None:
            statistic, value = "mean of rows", float(np.mean(values[valid]))
            interval = mean_interval(values[valid], options)
        else:
            statistic = "over tokens"
            value, interval = _perplexity(np.log(values[valid]) * tokens[valid], tokens[valid], options)
        yield Score(
            *(measure.name, trial.name, group, statistic, measure.greater_is_better, int(valid.sum()), value),
            *(interval.low, interval.high, interval.method),
        )


def _perplexity(
    nll: NDArray[np.float64], tokens: NDArray[np.float64], options: BootstrapOptions
) -> tuple[float, Interval]:
    interval = quotient_interval(nll, tokens, options)
    value, low, high = np.exp([float(np.sum(nll) / np.sum(tokens)), interval.low, interval.high])
    return float(value), Interval(float(low), float(high), interval.method)


def _members(groups: Sequence[str] | None, rows: int) -> Iterator[tuple[str | None, NDArray[np.bool_]]]:
    if groups is None:
        yield None, np.ones(rows, dtype=bool)
        return
    for group in dict.fromkeys(groups):
        yield group, np.array([each == group for each in groups])
