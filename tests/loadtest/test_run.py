"""Loads keep their rhythm, end whatever happens, and say what happened."""

from __future__ import annotations

import itertools
import signal
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_llm_plugins.errors import MissingDependencyError
from mlflow_llm_plugins.loadtest import Load, LoadInterrupted, RequestResult, Target, run_load
from mlflow_llm_plugins.loadtest.run import send_times
from tests.loadtest.server import TOKENS, USAGE, OpenAIServer


def test_closed_loop_keeps_all_clients_busy_and_no_more(server: OpenAIServer):
    result = run_load(Target(url=server.url, model="together3"), Load(clients=3, requests=9))
    assert len(result.succeeded) == 9, result.failures
    assert server.most_waiting == 3


def test_open_loop_waits_for_no_answer(server: OpenAIServer):
    result = run_load(Target(url=server.url, model="together6"), Load(rate=200, requests=6))
    assert len(result.succeeded) == 6, result.failures


def test_open_loop_sends_no_request_before_its_time(server: OpenAIServer):
    load = Load(rate=100, requests=8, seed=3)
    sent = sorted(request.sent_s for request in run_load(Target(url=server.url), load).requests)
    assert all(time >= due - 1e-3 for time, due in zip(sent, send_times(load), strict=True))


@given(seed=st.integers(), rate=st.floats(0.01, 1e4), requests=st.integers(1, 50))
def test_send_times_follow_from_the_seed(seed, rate, requests):
    times = send_times(Load(rate=rate, requests=requests, seed=seed))
    assert times == send_times(Load(rate=rate, requests=requests, seed=seed))
    assert len(times) == requests
    assert times[0] == 0
    assert all(before <= after for before, after in itertools.pairwise(times))


def test_other_seeds_give_other_times_and_all_keep_the_rate():
    runs = [send_times(Load(rate=4, requests=2001, seed=seed)) for seed in (0, 1)]
    assert runs[0] != runs[1]
    assert all(times[-1] == pytest.approx(500, rel=0.1) for times in runs)


def test_figures_add_up(server: OpenAIServer):
    result = run_load(Target(url=server.url), Load(clients=2, requests=5))
    assert (result.completion_tokens, result.prompt_tokens) == (5 * TOKENS, 5 * USAGE["prompt_tokens"])
    assert result.output_tokens_per_second == pytest.approx(5 * TOKENS / result.duration_s)
    assert result.time_to_first_token.count == result.time_per_output_token.count == 5
    assert result.time_to_first_token.p99 <= result.end_to_end_latency.p99 <= result.duration_s


def test_failures_are_counted_and_stop_nothing(server: OpenAIServer):
    prompts = [{"model": model, "messages": []} for model in ("steady", "busy", "dies", "steady")]
    result = run_load(Target(url=server.url), Load(clients=2, requests=8), prompts)
    assert result.failures == {"HTTP 429 rate_limit full": 2, "cut off": 2}
    assert (len(result.succeeded), result.completion_tokens) == (4, 4 * TOKENS)


def test_warm_up_is_sent_first_and_not_measured(server: OpenAIServer):
    prompts = ["measured", "measured too", "warm-up"]
    result = run_load(Target(url=server.url), Load(clients=1, requests=2, warmup=1), prompts)
    assert [body["messages"][0]["content"] for body in server.bodies] == ["warm-up", "measured", "measured too"]
    assert len(result.requests) == 2


def test_warm_up_that_fails_is_told_in_the_log(server: OpenAIServer, caplog):
    run_load(Target(url=server.url, model="busy"), Load(clients=1, requests=1, warmup=2))
    assert "Of 2 requests to warm up some failed: {'HTTP 429 rate_limit full': 2}" in caplog.text


def test_each_result_is_told_as_it_comes(server: OpenAIServer):
    told = []
    result = run_load(Target(url=server.url), Load(clients=2, requests=4), on_result=told.append)
    assert tuple(told) == result.requests


@pytest.mark.parametrize("rhythm", [{"clients": 1}, {"rate": 1000}])
def test_interruption_carries_what_was_measured(server: OpenAIServer, rhythm):
    prompts = [{"model": "steady", "messages": []}, {"model": "hangs", "messages": []}]

    def interrupt(result: RequestResult) -> None:
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(LoadInterrupted) as interruption:
        run_load(Target(url=server.url), Load(requests=2, **rhythm), prompts, on_result=interrupt)
    result = interruption.value.result
    assert result.interrupted
    assert [request.completion_tokens for request in result.requests] == [TOKENS]


def test_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(MissingDependencyError) as error:
        run_load(Target(url="http://localhost:1"), Load(clients=1))
    assert str(error.value) == "The load generator needs httpx: pip install 'mlflow-llm-plugins[all]'"
