"""Figures of time, from columns of what was measured."""

from __future__ import annotations

import logging
import math
import random
import statistics
import time

import mlflow
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_llm_plugins.metrics import timing

COLUMNS = {
    "latency": "latencies",
    "time_to_first_token": "times_to_first_token",
    "inter_token_latency": "token_gaps",
    "time_per_output_token": "times_per_output_token",
    "tokens_per_second": "output_tokens_per_second",
}
OF_NUMBERS = [name for name in COLUMNS if name != "inter_token_latency"]
SECONDS = st.floats(0, 1e4)


def made(name):
    return getattr(timing, name)()


@pytest.mark.parametrize("name", COLUMNS)
def test_a_metric_is_named_as_its_function_and_takes_its_own_column(name):
    metric = made(name)
    assert (metric.name, metric.version) == (name, "v1")
    assert metric.greater_is_better is (name == "tokens_per_second")
    assert "econds" in metric.metric_details
    cell = [0.5] if name == "inter_token_latency" else 0.5
    assert metric(**{COLUMNS[name]: [cell, None]}).aggregate_results["mean"] == 0.5


@pytest.mark.parametrize("name", OF_NUMBERS)
@given(st.lists(st.none() | SECONDS, max_size=30))
def test_figures_are_those_of_the_rows_in_the_sample(name, column):
    result = made(name)(column)
    assert [None if math.isnan(score) else score for score in result.scores] == column
    assert result.justifications is None
    check_figures(result.aggregate_results, [value for value in column if value is not None], count=True)


@given(st.lists(st.none() | st.lists(SECONDS, max_size=9).map(tuple), max_size=9))
def test_gaps_of_all_answers_are_pooled_and_a_rows_score_is_the_mean_of_its_own(column):
    result = timing.inter_token_latency()(column)
    means = [statistics.fmean(gaps) if gaps else None for gaps in column]
    assert [None if math.isnan(score) else score for score in result.scores] == pytest.approx(means)
    pooled = [gap for gaps in column for gap in gaps or ()]
    check_figures(result.aggregate_results, pooled, count=False)
    assert result.aggregate_results["gaps"] == len(pooled)
    assert result.aggregate_results["count"] == sum(mean is not None for mean in means)


def check_figures(figures, values, count):
    if not values:
        assert set(figures) <= {"count", "gaps"}
        return
    series = pd.Series(values)
    assert figures["mean"] == pytest.approx(statistics.fmean(values))
    assert figures["variance"] == pytest.approx(statistics.pvariance(values), rel=1e-6, abs=1e-6)
    for percent in (50, 90, 99):
        assert figures[f"p{percent}"] == pytest.approx(series.quantile(percent / 100))
    if count:
        assert figures["count"] == len(values)


def test_long_answers_weigh_more_in_the_pooled_gaps():
    figures = timing.inter_token_latency()([[1.0], [0.1] * 9]).aggregate_results
    assert figures["mean"] == pytest.approx(0.19)
    assert figures["p50"] == pytest.approx(0.1)
    assert figures["count"] == 2


@pytest.mark.parametrize(
    "column", [np.array([0.25, np.nan]), pd.Series([0.25, None], index=[5, 5]), iter([0.25, pd.NA])]
)
def test_arrays_and_series_are_columns_too(column):
    result = timing.latency()(column)
    assert result.scores[0] == 0.25
    assert math.isnan(result.scores[1])
    assert result.justifications is None


def test_gaps_may_be_arrays_or_come_one_by_one():
    gaps = np.array([0.5, 1.5], dtype=np.float32)
    for cell in (gaps, iter(gaps)):
        result = timing.inter_token_latency()(pd.Series([cell, ()]))
        assert result.scores[0] == 1.0
        assert (result.aggregate_results["gaps"], result.aggregate_results["mean"]) == (2, 1.0)


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("0.5", "what was measured is of type str, not a number"),
        (True, "what was measured is of type bool, not a number"),
        (-0.1, "what was measured must be finite and at least 0, got -0.1"),
        (math.inf, "what was measured must be finite and at least 0, got inf"),
        (10**400, "what was measured must be finite and at least 0, got inf"),
    ],
)
def test_what_is_no_time_has_no_score_and_is_in_no_figure(cell, reason):
    for name in OF_NUMBERS:
        result = made(name)([0.5, cell])
        assert result.justifications == [None, reason]
        assert result.aggregate_results["count"] == 1
        assert result.aggregate_results["mean"] == 0.5
    pooled = timing.inter_token_latency()([[0.5], [0.7, cell]])
    assert pooled.justifications == [None, reason]
    assert pooled.aggregate_results["gaps"] == 1


@pytest.mark.parametrize("cell", [0.5, "0.5"])
def test_gaps_must_be_a_sequence(cell):
    expected = f"what was measured is of type {type(cell).__name__}, not a sequence of times"
    assert timing.inter_token_latency()([[0.5], cell]).justifications == [None, expected]


@pytest.mark.parametrize("name", COLUMNS)
def test_without_its_column_a_metric_gives_nothing_and_says_who_measures_it(name, caplog):
    with caplog.at_level(logging.WARNING, timing.__name__):
        assert made(name)() is None
    [message] = [record.getMessage() for record in caplog.records if record.name == timing.__name__]
    expected = f"{name} is left out: it was not measured. Evaluate with evaluators='llm', which does."
    assert message == expected


def test_the_default_evaluator_measures_latency_itself_and_leaves_the_others_out(tracking):
    def slow(frame):
        time.sleep(0.01 * len(frame))
        return ["x"] * len(frame)

    metrics = [made("time_to_first_token"), made("tokens_per_second"), made("latency")]
    with mlflow.start_run():
        result = mlflow.models.evaluate(
            slow, pd.DataFrame({"inputs": ["a", "b", "c"]}), evaluators="default", extra_metrics=metrics
        )
    assert set(result.metrics) == {"latency/mean", "latency/variance", "latency/p90"}
    assert result.metrics["latency/mean"] >= 0.01


def test_the_default_evaluator_takes_times_that_are_columns_of_the_data(tracking):
    times = [random.random() for _ in range(4)]
    frame = pd.DataFrame({"inputs": list("abcd"), "answer": list("wxyz"), "times_to_first_token": times})
    with mlflow.start_run():
        result = mlflow.models.evaluate(
            data=frame, predictions="answer", evaluators="default", extra_metrics=[made("time_to_first_token")]
        )
    assert result.metrics["time_to_first_token/v1/p99"] == pytest.approx(np.percentile(times, 99))
    assert result.metrics["time_to_first_token/v1/count"] == 4
