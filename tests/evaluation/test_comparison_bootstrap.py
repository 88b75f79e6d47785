from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.evaluation.comparison.bootstrap import (
    BootstrapOptions,
    mean_interval,
    quotient_difference_interval,
    quotient_interval,
)

QUICK = BootstrapOptions(n_resamples=200)
values_of_rows = st.lists(st.integers(-1000, 1000), min_size=2, max_size=30).map(lambda rows: np.array(rows, float))


def scipys(statistic, sample, method="BCa", level=0.95, seed=0, n_resamples=9999):
    return stats.bootstrap(
        (sample,),
        statistic,
        vectorized=False,
        method=method,
        confidence_level=level,
        n_resamples=n_resamples,
        rng=np.random.default_rng(seed),
    ).confidence_interval


@pytest.mark.parametrize(("level", "seed"), [(0.95, 0), (0.8, 7)])
def test_the_interval_of_a_mean_is_scipys(level: float, seed: int):
    values = np.random.default_rng(3).gamma(2, size=73) - 1.5
    interval = mean_interval(values, BootstrapOptions(level, seed=seed))
    expected = scipys(np.mean, values, level=level, seed=seed)
    assert (interval.low, interval.high) == pytest.approx(expected, abs=1e-12)
    assert interval.method == "BCa"


def test_the_interval_of_two_quotients_is_scipys_over_row_numbers():
    rng = np.random.default_rng(5)
    tokens = rng.integers(5, 90, 60).astype(float)
    base, other = rng.gamma(3, size=60) * tokens, rng.gamma(2.8, size=60) * tokens

    def difference(rows):
        rows = rows.astype(int)
        return other[rows].sum() / tokens[rows].sum() - base[rows].sum() / tokens[rows].sum()

    interval = quotient_difference_interval((base, tokens), (other, tokens), BootstrapOptions(n_resamples=2000))
    expected = scipys(difference, np.arange(60), n_resamples=2000)
    assert (interval.low, interval.high) == pytest.approx(expected, abs=1e-12)


def test_the_interval_of_one_quotient_weighs_rows_by_their_tokens():
    tokens = np.random.default_rng(1).integers(1, 500, 80).astype(float)
    nll = np.random.default_rng(2).gamma(2, size=80) * tokens
    interval = quotient_interval(nll, tokens, BootstrapOptions(n_resamples=1000))
    expected = scipys(lambda rows: nll[rows].sum() / tokens[rows].sum(), np.arange(80), n_resamples=1000)
    assert (interval.low, interval.high) == pytest.approx(expected, abs=1e-12)
    assert interval.low < nll.sum() / tokens.sum() < interval.high


@pytest.mark.parametrize("values", [[], [0.5]])
def test_fewer_than_two_rows_have_no_interval(values: list[float]):
    interval = mean_interval(np.array(values), QUICK)
    assert interval.method is None
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)
    assert not interval.excludes(0)


@pytest.mark.parametrize("value", [0.0, -0.25, 1e9])
def test_equal_differences_have_no_width_and_say_so(value: float):
    interval = mean_interval(np.full(40, value), QUICK)
    assert (interval.low, interval.high, interval.method) == (value, value, "no variation")


def test_differences_that_only_rounding_sets_apart_count_as_equal():
    a = np.random.default_rng(0).uniform(0, 1, 50)
    b = (a + 0.1) - 0.1  # equal to a but for the last digit of some
    assert np.ptp(b - a) > 0
    assert mean_interval(b - a, QUICK, scale=1.0).method == "no variation"


def test_quotients_that_all_rows_share_have_no_variation():
    tokens = np.array([3.0, 10.0, 50.0])
    interval = quotient_difference_interval((2 * tokens, tokens), (3 * tokens, tokens), QUICK)
    assert interval.method == "no variation"
    assert (interval.low, interval.high) == pytest.approx((1, 1))


def test_where_bca_fails_percentiles_take_its_place(monkeypatch: pytest.MonkeyPatch):
    original = stats.bootstrap

    def without_bca(*args, method, **kwargs):
        result = original(*args, method="percentile", **kwargs)
        if method == "BCa":
            result.confidence_interval = result.confidence_interval._replace(low=math.nan, high=math.nan)
        return result

    without_bca.__signature__ = inspect.signature(original)
    monkeypatch.setattr(stats, "bootstrap", without_bca)
    values = np.random.default_rng(9).normal(size=30)
    interval = mean_interval(values, BootstrapOptions())
    monkeypatch.undo()
    assert interval.method == "percentile"
    assert (interval.low, interval.high) == pytest.approx(scipys(np.mean, values, "percentile"), abs=1e-12)


@given(values_of_rows)
@settings(max_examples=40)
def test_an_interval_is_in_order_and_within_the_rows(values: np.ndarray):
    interval = mean_interval(values, QUICK)
    assert interval.method in ("BCa", "percentile", "no variation")
    assert values.min() - 1e-9 <= interval.low <= interval.high <= values.max() + 1e-9


@given(values_of_rows, st.integers(-500, 500), st.integers(1, 50))
@settings(max_examples=40)
def test_an_interval_moves_and_stretches_with_its_rows(values: np.ndarray, shift: int, factor: int):
    before, after = mean_interval(values, QUICK), mean_interval(values * factor + shift, QUICK)
    # Ties among resampled means may break differently by rounding, which moves a quantile by a resample or two.
    slack = 0.1 * factor * np.ptp(values) + 1e-9
    assert after.low == pytest.approx(before.low * factor + shift, abs=slack)
    assert after.high == pytest.approx(before.high * factor + shift, abs=slack)


@given(values_of_rows)
@settings(max_examples=20)
def test_the_same_seed_gives_the_same_interval(values: np.ndarray):
    assert mean_interval(values, QUICK) == mean_interval(values.copy(), QUICK)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confidence_level": 95}, "confidence_level must be between 0 and 1, for example 0.95; got 95."),
        ({"confidence_level": True}, "confidence_level must be between 0 and 1"),
        ({"n_resamples": 10}, "n_resamples must be a whole number of at least 100, got 10."),
        ({"seed": -1}, "seed must be a whole number of at least 0, got -1."),
        ({"seed": 0.5}, "seed must be a whole number"),
    ],
)
def test_options_out_of_range_are_refused(options: dict, message: str):
    with pytest.raises(InvalidInputError) as error:
        BootstrapOptions(**options)
    assert message in str(error.value)
