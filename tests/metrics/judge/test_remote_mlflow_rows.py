"""Judges of MLflow: what fails in the first row costs that row, what fails in every row is told once."""

from __future__ import annotations

import json

import mlflow
import pytest
from packaging.version import Version

from mlflow_llm_plugins.errors import AccessDeniedError, EngineUnavailableError, InvalidInputError
from mlflow_llm_plugins.metrics.judge.backends import backend_of
from tests.metrics.judge.remote_server import Reply, a_question, in_turn, remote_server

is_newer = pytest.mark.skipif(Version(mlflow.__version__) < Version("3.17"), reason="as test_remote_mlflow.py says")

SHARES = {"Yes": 0.75, "No": 0.25}
CHOICE = {"type": "choice", "choice": "Yes", "confidence": 0.5, "probabilities": SHARES}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
GATEWAY = {"chat": "gateway/mlflow/v1/chat/completions", "systemone": "gateway/typesafe/v1/systemone"}


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("TYPESAFE_API_KEY", "sk-secret")


def decision(answer):
    return Reply({"model": "m", "answers": {"evaluation": answer}, "usage": None})


def chat(content, **more):
    message = {"role": "assistant", "content": content, **more}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return Reply(
        {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    )


def without_choices():
    reply = chat("x")
    reply.body["choices"] = []
    return reply


def cut():
    raise ConnectionAbortedError


def spoilt(bad, good):
    """A route that gives `bad` to the row with this word."""
    return lambda body: bad() if "SPOILT" in json.dumps(body) else good


def ask(server, uri, *texts, **settings):
    base_url = server.url if uri.startswith("typesafe") else f"{server.url}/chat/completions"
    judge = backend_of({"uri": uri, "base_url": base_url, "num_retries": 0, **settings})
    return judge.ask([a_question(text) for text in texts], progress=False)


@is_newer
@pytest.mark.parametrize("texts", [("SPOILT", "good", "good"), ("good", "SPOILT", "good")])
@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (lambda: Reply({}, 400), "the judge answered with HTTP status 400"),
        (lambda: Reply({}, 413), "the judge answered with HTTP status 413"),
        (lambda: Reply({}, 503), "the judge answered with HTTP status 503"),
        (lambda: Reply(b"SPOILT"), "returned invalid JSON"),
        (lambda: Reply([1]), "returned an invalid response"),
        (lambda: decision({"type": "noul", "noul": 0.5}), "returned an invalid choice answer"),
        (lambda: decision({**CHOICE, "probabilities": {"Yes": 0.5, "No": 0.1}}), "invalid choice answer"),
        (cut, "the judge's answer broke off"),
    ],
)
def test_a_typed_decision_that_fails_costs_its_row_wherever_it_stands(texts, bad, reason):
    with remote_server(systemone=spoilt(bad, decision(CHOICE))) as server:
        opinions = ask(server, "typesafe:/m", *texts)
    assert [opinion.choice for opinion in opinions] == [None if text == "SPOILT" else 0 for text in texts]
    assert reason in opinions[texts.index("SPOILT")].error


@is_newer
@pytest.mark.parametrize("texts", [("SPOILT", "good", "good"), ("good", "SPOILT", "good")])
@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (without_choices, "Empty choices"),
        (lambda: chat(None, tool_calls=[CALL]), "iteration limit of 2"),
        (cut, "the judge's answer broke off"),
    ],
)
def test_a_chat_that_fails_costs_its_row_wherever_it_stands(monkeypatch, texts, bad, reason):
    monkeypatch.setenv("MLFLOW_JUDGE_MAX_ITERATIONS", "2")
    with remote_server(chat=spoilt(bad, chat('{"result": "Yes"}'))) as server:
        opinions = ask(server, "openai:/m", *texts)
    assert [opinion.choice for opinion in opinions] == [None if text == "SPOILT" else 0 for text in texts]
    assert reason in opinions[texts.index("SPOILT")].error


@is_newer
def test_what_fails_for_a_question_of_our_own_too_is_raised_once():
    with remote_server(chat=lambda _: without_choices()) as server, pytest.raises(InvalidInputError) as told:
        ask(server, "openai:/m", *["SPOILT"] * 9)
    assert str(told.value) == "judge='openai:/m': Empty choices in chat completions response"
    assert ["SPOILT" in json.dumps(body) for _, body, _ in server.received] == [True, False]


@is_newer
def test_our_own_question_is_asked_once_at_most():
    route = spoilt(without_choices, chat('{"result": "Yes"}'))
    with remote_server(chat=route) as server:
        opinions = ask(server, "openai:/m", *["SPOILT"] * 9)
    assert all("Empty choices" in opinion.error for opinion in opinions)
    assert len(server.received) == 10


@is_newer
def test_a_base_url_that_mlflow_refuses_is_told_in_its_words():
    judge = backend_of({"uri": "typesafe:/m", "base_url": "ftp://h/v1"})
    with pytest.raises(InvalidInputError, match="base_url must be an absolute HTTP or HTTPS URL"):
        judge.ask([a_question()] * 2, progress=False)


@is_newer
def test_parameters_that_typed_decisions_do_not_take_are_told_in_mlflows_words():
    with remote_server(systemone=lambda _: decision(CHOICE)) as server, pytest.raises(InvalidInputError) as told:
        ask(server, "typesafe:/m", "x", "x", inference_params={"seed": 3})
    assert "do not support inference_params" in str(told.value)
    assert server.received == []


@is_newer
def test_a_refused_key_of_typed_decisions_is_raised_once():
    with remote_server(systemone=lambda _: Reply({}, 401)) as server, pytest.raises(AccessDeniedError) as told:
        ask(server, "typesafe:/m", "x", "x")
    assert "the key is refused (HTTP status 401)" in str(told.value)
    assert len(server.received) == 1


@is_newer
def test_a_server_of_typed_decisions_that_is_not_there_is_told_once():
    with remote_server() as server:
        pass
    with pytest.raises(EngineUnavailableError, match="cannot be reached"):
        ask(server, "typesafe:/m", "x", "x")


@is_newer
def test_what_a_caller_is_handling_is_no_cause_of_a_failure():
    with remote_server(systemone=spoilt(lambda: Reply([1]), decision(CHOICE))) as server:
        try:
            raise ConnectionRefusedError("of another judge")
        except ConnectionRefusedError:
            opinions = ask(server, "typesafe:/m", "SPOILT", "good")
    assert [opinion.choice for opinion in opinions] == [None, 0]


@is_newer
def test_words_of_time_in_an_answer_are_no_silence():
    with remote_server(chat=lambda _: chat("it timed out")) as server:
        opinions = ask(server, "openai:/m", *["x"] * 5, max_unanswered=1)
    assert {opinion.error for opinion in opinions} == {"the judge's answer cannot be read (JSONDecodeError)"}


@is_newer
@pytest.mark.parametrize(("num_retries", "requests"), [(0, 1), (1, 2)])
def test_a_busy_server_of_typed_decisions_is_asked_again_as_often_as_was_said(num_retries, requests):
    with remote_server(systemone=lambda _: Reply({}, 503)) as server:
        (opinion,) = ask(server, "typesafe:/m", "x", num_retries=num_retries)
    assert opinion.error == "the judge answered with HTTP status 503"
    assert len(server.received) == requests


def ask_gateway(monkeypatch, *texts, **routes):
    with remote_server(**{GATEWAY[name]: route for name, route in routes.items()}) as server:
        monkeypatch.setenv("MLFLOW_GATEWAY_URI", server.url.removesuffix("/v1"))
        judge = backend_of({"uri": "gateway:/m", "num_retries": 0})
        opinions = judge.ask([a_question(text) for text in texts], progress=False)
    return opinions, server.paths()


def test_a_chat_behind_mlflows_gateway_is_asked_as_often_as_was_said(monkeypatch):
    route = in_turn(chat('{"result": "No"}'), Reply({}, 503))
    opinions, paths = ask_gateway(monkeypatch, "x", "x", chat=route)
    assert [opinion.choice for opinion in opinions] == [1, None]
    assert opinions[1].error == "the judge answered with HTTP status 503"
    assert len(paths) == 2


@is_newer
def test_a_gateway_that_has_typed_decisions_alone_is_asked_for_these(monkeypatch):
    from mlflow.gateway.constants import SYSTEM_ONE_CHAT_ROUTE_REJECTION_DETAIL

    refusal = Reply({"detail": SYSTEM_ONE_CHAT_ROUTE_REJECTION_DETAIL}, 400)
    opinions, paths = ask_gateway(monkeypatch, "x", "x", chat=lambda _: refusal, systemone=lambda _: decision(CHOICE))
    assert [opinion.choice for opinion in opinions] == [0, 0]
    assert all(opinion.logprobs for opinion in opinions)
    assert len(paths) == 3


def test_a_gateway_without_an_address_is_told_in_mlflows_words(monkeypatch):
    monkeypatch.delenv("MLFLOW_GATEWAY_URI", raising=False)
    with pytest.raises(InvalidInputError, match=r"requires an HTTP\(S\) tracking URI"):
        backend_of("gateway:/m").ask([a_question()] * 2, progress=False)
