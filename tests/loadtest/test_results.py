"""Figures follow from the requests as their names say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_llm_plugins.loadtest import Distribution, Load, LoadResult, Objective, RequestResult, Target

DURATIONS = st.lists(st.floats(0, 1e4), min_size=1, max_size=200)


def result_of(*requests: RequestResult) -> LoadResult:
    return LoadResult(
        target=Target(url="http://localhost:1"),
        load=Load(clients=1, requests=max(1, len(requests))),
        requests=requests,
        date="",
        cpu_s=0.0,
    )


# Sent at 1; tokens at 3, 4 and 6; the usage at 7.
SLOW = RequestResult(
    sent_s=1.0, ended_s=7.0, first_token_s=3.0, gaps_s=(1.0, 2.0), prompt_tokens=4, completion_tokens=5, status=200
)
SINGLE = RequestResult(sent_s=0.0, ended_s=0.5, first_token_s=0.5, prompt_tokens=4, completion_tokens=1, status=200)
WHOLE = RequestResult(sent_s=0.0, ended_s=2.0, completion_tokens=5, status=200)
UNCOUNTED = RequestResult(sent_s=0.0, ended_s=2.0, first_token_s=1.0, gaps_s=(1.0,), status=200)
FAILED = RequestResult(sent_s=0.0, ended_s=10.0, first_token_s=9.0, gaps_s=(0.5,), status=200, failure="cut off")


def test_latencies_of_one_request():
    assert (SLOW.time_to_first_token, SLOW.end_to_end_latency, SLOW.time_per_output_token) == (2.0, 6.0, 1.0)


@pytest.mark.parametrize("request_result", [SINGLE, WHOLE, UNCOUNTED], ids=["one token", "no stream", "no usage"])
def test_time_per_output_token_is_unknown_without_a_second_token_a_first_time_or_a_count(request_result):
    assert request_result.time_per_output_token is None


@given(DURATIONS)
def test_percentiles_are_those_of_numpy(values):
    found = Distribution.of(values)
    expected = np.percentile(values, [50, 90, 99])
    assert [found.p50, found.p90, found.p99] == pytest.approx(expected.tolist(), rel=1e-9, abs=1e-12)
    assert found.mean == pytest.approx(float(np.mean(values)), rel=1e-9, abs=1e-12)
    assert min(values) <= found.p50 <= found.p90 <= found.p99 <= max(values)


@given(DURATIONS, st.integers(0, 5))
def test_unknown_values_are_left_out_of_a_distribution(values, unknown):
    assert Distribution.of([None] * unknown + values) == Distribution.of(values)


def test_distribution_of_nothing_is_unknown():
    assert Distribution.of([None]) is None


def test_throughput_is_over_the_time_from_the_first_sending_to_the_last_end():
    result = result_of(SINGLE, SLOW, FAILED)
    assert result.duration_s == 10.0
    assert result.requests_per_second == pytest.approx(0.2)
    assert result.output_tokens_per_second == pytest.approx(0.6)
    assert (result.prompt_tokens, result.completion_tokens) == (8, 6)


def test_failed_requests_are_counted_by_kind_and_leave_the_latencies_alone():
    timeouts = [RequestResult(sent_s=0.0, ended_s=9.0, failure="timeout")] * 2
    with_failures, without = result_of(FAILED, SLOW, *timeouts), result_of(SLOW)
    assert list(with_failures.failures.items()) == [("timeout", 2), ("cut off", 1)]
    for name in ("time_to_first_token", "inter_token_latency", "time_per_output_token", "end_to_end_latency"):
        assert getattr(with_failures, name) == getattr(without, name)


def test_gaps_are_pooled_over_requests_while_time_per_output_token_is_one_mean_each():
    quick = RequestResult(sent_s=0.0, ended_s=2.0, first_token_s=1.0, gaps_s=(1.0,), completion_tokens=11, status=200)
    result = result_of(SLOW, quick)
    assert result.inter_token_latency == Distribution.of([1.0, 2.0, 1.0])
    assert result.time_per_output_token == Distribution.of([1.0, 0.1])


def test_tokens_are_unknown_when_one_answer_has_no_usage():
    result = result_of(SLOW, UNCOUNTED)
    assert (result.completion_tokens, result.output_tokens_per_second, result.without_usage) == (None, None, 1)


@pytest.mark.parametrize(
    ("limits", "good"),
    [
        ({"ttft": 2.0}, 2),
        ({"ttft": 1.9}, 1),
        ({"tpot": 1.0}, 2),
        ({"tpot": 0.9}, 1),  # one token alone keeps it
        ({"ttft": 2.0, "tpot": 0.9, "e2el": 6.0}, 1),
        ({"e2el": 6.0}, 2),
        ({"e2el": 0.4}, 0),
        ({}, 2),
    ],
)
def test_goodput_counts_requests_that_keep_every_limit(limits, good):
    result = result_of(SLOW, SINGLE, FAILED)
    assert result.goodput(Objective(**limits)) == pytest.approx(good / 10.0)


@given(
    st.lists(st.builds(RequestResult, sent_s=st.floats(0, 9), ended_s=st.floats(9, 20)), max_size=9),
    st.floats(0.1, 30),
)
def test_goodput_is_never_above_the_throughput(requests, limit):
    result = result_of(*requests)
    assert result.goodput(Objective(e2el=limit)) <= result.requests_per_second


@pytest.mark.parametrize(("request_result", "limit"), [(WHOLE, "ttft"), (WHOLE, "tpot"), (UNCOUNTED, "tpot")])
def test_goodput_is_unknown_where_a_limited_time_was_not_measured(request_result, limit):
    assert result_of(SLOW, request_result).goodput(Objective(**{limit: 0.1})) is None


def test_load_without_results_has_no_figures():
    result = result_of()
    assert (result.duration_s, result.requests_per_second, result.output_tokens_per_second) == (0.0, 0.0, 0.0)
    assert result.end_to_end_latency is None
