"""Confidence intervals from resampled rows, by scipy's bootstrap, and what to do where that gives none."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlflow_llm_plugins.errors import InvalidInputError

Numbers = NDArray[np.float64]

INDICATIVE_BELOW = 50  # rows; intervals of fewer hold the truth less often than they say
_BATCH = 500  # resamples at once: faster than all at once, and without gigabytes for 10,000 rows
ROUNDING = 1e-12  # relative; smaller differences are none


@dataclass(frozen=True, slots=True)
class BootstrapOptions:
    """How intervals are computed; the same resampled rows for each metric."""

    confidence_level: float = 0.95
    n_resamples: int = 9999
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InvalidInputError: One is out of its range.
        """
        level = self.confidence_level
        if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level < 1:
            raise InvalidInputError(f"confidence_level must be between 0 and 1, for example 0.95; got {level!r}.")
        for name, value, least in (("n_resamples", self.n_resamples, 100), ("seed", self.seed, 0)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
                raise InvalidInputError(f"{name} must be a whole number of at least {least}, got {value!r}.")


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval; NaN without a method where there is none."""

    low: float = math.nan
    high: float = math.nan
    method: str | None = None  # "BCa", "percentile", "no variation"

    def excludes(self, value: float) -> bool:
        """Whether the value is outside."""
        return self.low > value or self.high < value


def mean_interval(values: Numbers, options: BootstrapOptions, scale: float = 0.0) -> Interval:
    """The interval of a mean.

    Args:
        values: One a row, all finite.
        options: Level, resamples, seed.
        scale: Of the numbers whose differences the values are: what is equal up to their rounding counts as equal.
    """
    return _interval((values,), np.mean, values, scale, options)


def quotient_interval(numerators: Numbers, denominators: Numbers, options: BootstrapOptions) -> Interval:
    """The interval of a sum divided by another sum of the same rows, as of bits per byte."""
    influence = _influence(numerators, denominators)
    return _interval((numerators, denominators), _quotient, influence, _scale(numerators, denominators), options)


def quotient_difference_interval(
    base: tuple[Numbers, Numbers], other: tuple[Numbers, Numbers], options: BootstrapOptions
) -> Interval:
    """The interval of the quotient of `other` minus that of `base`, each a numerator and a denominator a row."""

    def difference(n_base: Any, d_base: Any, n_other: Any, d_other: Any, axis: int = -1) -> Any:
        return _quotient(n_other, d_other, axis) - _quotient(n_base, d_base, axis)

    influence = _influence(*other) - _influence(*base)
    return _interval((*base, *other), difference, influence, max(_scale(*base), _scale(*other)), options)


def _quotient(numerators: Any, denominators: Any, axis: int = -1) -> Any:
    return np.sum(numerators, axis=axis) / np.sum(denominators, axis=axis)


def _influence(numerators: Numbers, denominators: Numbers) -> Numbers:
    """How each row moves the quotient; where all do it equally, resampling changes nothing."""
    influence: Numbers = (numerators - _quotient(numerators, denominators) * denominators) / np.mean(denominators)
    return influence


def _scale(numerators: Numbers, denominators: Numbers) -> float:
    return float(np.max(np.abs(numerators), initial=0.0) / np.mean(denominators))


def _interval(
    samples: Sequence[Numbers],
    statistic: Callable[..., Any],
    influence: Numbers,
    scale: float,
    options: BootstrapOptions,
) -> Interval:
    if len(influence) < 2:
        return Interval()
    rounding = ROUNDING * max(scale, float(np.max(np.abs(influence))))
    if np.ptp(influence) <= rounding:
        value = float(statistic(*samples, axis=-1))
        value = 0.0 if abs(value) <= rounding else value
        return Interval(value, value, "no variation")
    for method in ("BCa", "percentile"):
        low, high = _bootstrap(samples, statistic, method, options)
        if math.isfinite(low) and math.isfinite(high):
            return Interval(low, high, method)
    return Interval()


def _bootstrap(
    samples: Sequence[Numbers], statistic: Callable[..., Any], method: str, options: BootstrapOptions
) -> tuple[float, float]:
    from scipy import stats

    # scipy 1.15 renamed it
    name = "rng" if "rng" in inspect.signature(stats.bootstrap).parameters else "random_state"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # NaN says the same
        result = stats.bootstrap(
            tuple(samples),
            statistic,
            paired=len(samples) > 1,
            vectorized=True,
            axis=-1,
            confidence_level=options.confidence_level,
            n_resamples=int(options.n_resamples),
            batch=_BATCH,
            method=method,
            **{name: np.random.default_rng(int(options.seed))},
        )
    interval = result.confidence_interval
    return float(interval.low), float(interval.high)
