"""Figures over tokens, by the formulas of llama.cpp's perplexity tool, in float64."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

# What `row_scores` adds, left out: a mean of rows that weighs a short text like a long one misleads.
NO_MEANS = {"mean": math.nan, "variance": math.nan, "p90": math.nan}

_PERCENTILES = {
    "max": 100.0,
    "p99.9": 99.9,
    "p99": 99.0,
    "p95": 95.0,
    "p90": 90.0,
    "median": 50.0,
    "p10": 10.0,
    "p5": 5.0,
    "p1": 1.0,
    "p0.1": 0.1,
    "min": 0.0,
}


def mean(values: Numbers) -> float:
    """The mean, of a sum without rounding errors."""
    return math.fsum(values) / len(values)


def error_of_mean(values: Numbers) -> float:
    """The standard error of the mean of independent values; NaN for fewer than two."""
    if len(values) < 2:
        return math.nan
    return math.sqrt(float(np.var(values)) / (len(values) - 1))


def exponential(value: float) -> float:
    """The exponential function; infinite where its value is no float."""
    with np.errstate(over="ignore"):
        return float(np.exp(value))


def perplexity_with_error(nll: Numbers) -> tuple[float, float]:
    """Perplexity and its standard error, of negative log-probabilities; NaN for an error that is no float."""
    value = exponential(mean(nll))
    error = value * error_of_mean(nll)
    return value, error if math.isfinite(error) else math.nan


def percentiles(name: str, values: Numbers) -> Mapping[str, float]:
    """Maximum, percentiles by linear interpolation, and minimum, as `name_max`, `name_p99`."""
    found = np.percentile(values, list(_PERCENTILES.values()))
    return {f"{name}_{suffix}": float(value) for suffix, value in zip(_PERCENTILES, found, strict=True)}


def with_error(name: str, value: float, error: float) -> Mapping[str, float]:
    """A figure and its standard error under the names of both."""
    return {name: value, f"{name}_standard_error": error}
