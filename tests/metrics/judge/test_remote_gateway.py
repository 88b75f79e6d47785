"""Endpoints behind MLflow's own client of gateways: nobody's silence is told as an answer."""

from __future__ import annotations

import logging
import threading

import pytest

from mlflow_llm_plugins.errors import EngineUnavailableError, UnsupportedFeatureError
from mlflow_llm_plugins.metrics.judge.backends import backend_of
from tests.metrics.judge.remote_server import Reply, a_question, remote_server

ENDPOINT = {
    "name": "judge",
    "endpoint_type": "llm/v1/chat",
    "model": {"name": "m", "provider": "openai"},
    "endpoint_url": "/gateway/judge/invocations",
    "limit": None,
}
YES = {"choices": [{"message": {"content": '{"verdict": "Yes"}'}, "finish_reason": "stop"}]}


@pytest.fixture(autouse=True)
def bounds(monkeypatch):
    monkeypatch.setenv("MLFLOW_DEPLOYMENT_PREDICT_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def routes(spoilt):
    def predict(body):
        return spoilt() if "SPOILT" in str(body) else Reply(YES)

    return {"api/2.0/endpoints/judge": lambda _: Reply(ENDPOINT), "endpoints/judge/invocations": predict}


def judge_at(server, **settings):
    target = server.url.removesuffix("/v1")
    return backend_of({"uri": "endpoints:/judge", "target": target, "max_in_flight": 1, **settings})


def ask(judge, *texts):
    return judge.ask([a_question(text) for text in texts], progress=False)


def cut():
    raise ConnectionAbortedError


def test_a_gateway_that_closes_the_connection_answered_nothing_and_is_given_up():
    with remote_server(**routes(cut)) as server:
        opinions = ask(judge_at(server, deadline_s=0.1, max_unanswered=2), "good", *["SPOILT"] * 9)
    assert [opinion.choice for opinion in opinions] == [0, *[None] * 9]
    assert opinions[1].error == "the judge's answer broke off"
    assert "not asked, as that happened to 2 questions in a row" in opinions[9].error


def test_a_gateway_that_hangs_did_not_answer_in_time_and_is_given_up():
    freed = threading.Event()

    def hang():
        freed.wait(10)
        return Reply(YES)

    with remote_server(**routes(hang)) as server:
        opinions = ask(judge_at(server, deadline_s=0.1, max_unanswered=1), "good", *["SPOILT"] * 9)
        freed.set()
    assert opinions[1].error == "the judge did not answer in time"
    assert "not asked, as that happened to 1 questions in a row" in opinions[9].error


def test_a_gateway_that_went_away_is_told_as_such():
    with remote_server(**routes(cut)) as server:
        judge = judge_at(server)
        judge.check()
    with pytest.raises(EngineUnavailableError, match=r"the judge cannot be reached\. Is it running"):
        ask(judge, "good", "good")


def test_a_status_of_a_gateway_is_told():
    with remote_server(**routes(lambda: Reply({"error": {"message": "SECRET"}}, 500))) as server:
        opinions = ask(judge_at(server), "good", "SPOILT")
    assert opinions[1].error == "the judge answered with HTTP status 500"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"timeout_s": 1}, "takes no timeout_s"),
        ({"connect_timeout_s": 1, "model": "m"}, "takes no model, connect_timeout_s"),
        ({"api_key_env": "KEY"}, "takes no api_key_env"),
    ],
)
def test_what_the_client_cannot_keep_is_refused_with_who_decides_before_anything_is_asked(settings, words):
    with remote_server(**routes(cut)) as server, pytest.raises(UnsupportedFeatureError) as told:
        judge_at(server, **settings).check()
    assert words in str(told.value)
    assert "MLFLOW_DEPLOYMENT_PREDICT_TIMEOUT" in str(told.value)
    assert server.paths() == ["/api/2.0/endpoints/judge"]


def test_a_deadline_is_taken_with_a_warning_that_says_what_it_bounds(caplog):
    with remote_server(**routes(cut)) as server, caplog.at_level(logging.WARNING):
        judge_at(server).check()
        assert caplog.text == ""
        judge_at(server, deadline_s=9).check()
    assert "deadline_s=9 bounds when the last try begins" in caplog.text
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" in caplog.text


@pytest.mark.parametrize("route", ["systemone", "decisions"])
def test_a_route_that_the_client_does_not_have_is_refused(route):
    with remote_server(**routes(cut)) as server, pytest.raises(UnsupportedFeatureError) as told:
        ask(judge_at(server, route=route), "good")
    assert f"route='{route}'" in str(told.value)
    assert "deployments:/name" in str(told.value)


@pytest.mark.parametrize("settings", [{}, {"route": "chat"}])
def test_the_record_has_the_route_that_was_taken_and_no_bounds_that_were_not_kept(settings):
    with remote_server(**routes(cut)) as server:
        judge = judge_at(server, **settings)
        ask(judge, "good")
    described = judge.describe()
    assert described["route"] == "chat"
    assert described["deadline_s"] == 180
    assert described.keys().isdisjoint({"timeout_s", "connect_timeout_s", "model", "api_key_env", "api_key_file"})
