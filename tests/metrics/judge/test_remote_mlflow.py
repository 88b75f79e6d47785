"""Judges of MLflow: whatever it can ask gives one of the labels, or a reason without the row's text."""

from __future__ import annotations

import json
import math
import time

import mlflow
import pytest
from packaging.version import Version

from mlflow_llm_plugins.errors import AccessDeniedError, EngineUnavailableError, InvalidInputError
from mlflow_llm_plugins.metrics.judge.backends import backend_of
from tests.metrics.judge.remote_server import CHOICES, ONE_TO_FIVE, YES_NO, Reply, a_question, in_turn, remote_server


@pytest.fixture(autouse=True)
def settings(monkeypatch):
    monkeypatch.delenv("OPENAI_API_BASE", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")


def completion(content):
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return Reply(
        {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    )


def verdict(result, **more):
    return completion(json.dumps({"result": result, **more}))


def asked(monkeypatch, route, *texts, kind="yes_no", options=YES_NO, rationale=False, **given):
    if Version(mlflow.__version__) < Version("3.17"):
        pytest.skip("older judges ask api.openai.com, whatever OPENAI_API_BASE says (seen with MLflow 3.11)")
    with remote_server(chat=route) as server:
        monkeypatch.setenv("OPENAI_API_BASE", server.url)
        judge = backend_of({"uri": "openai:/m", "num_retries": 1, **given})
        opinions = judge.ask([a_question(text, kind, options) for text in texts], rationale=rationale, progress=False)
    return opinions, server.received


def test_each_row_gets_its_verdict_in_order(monkeypatch):
    def route(body):
        return verdict("Yes" if "good" in body["messages"][0]["content"] else "No")

    texts = ["good", "bad", "bad", "good"] * 3
    opinions, received = asked(monkeypatch, route, *texts)
    assert [opinion.choice for opinion in opinions] == [0 if text == "good" else 1 for text in texts]
    assert received[0][1]["messages"][0]["content"] == (
        a_question("good").text() + '\nWrite it into a JSON object as "result".'
    )


def test_the_model_is_held_to_the_labels_at_temperature_zero(monkeypatch):
    opinions, received = asked(
        monkeypatch, lambda _: verdict("4", rationale="x"), "x", kind="score", options=ONE_TO_FIVE
    )
    body = received[0][1]
    schema = body["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["result"]["enum"] == ["1", "2", "3", "4", "5"]
    assert (list(schema["properties"]), body["temperature"]) == (["result"], 0)
    assert (opinions[0].choice, opinions[0].rationale) == (3, None)


def test_a_rationale_is_told_where_it_is_asked_for(monkeypatch):
    opinions, _ = asked(monkeypatch, lambda _: verdict("Yes", rationale="It is."), "x", rationale=True)
    assert (opinions[0].choice, opinions[0].rationale) == (0, "It is.")


@pytest.mark.parametrize("result", ["yes", "Maybe", "", None, 7, ["Yes"]])
def test_a_result_that_is_none_of_the_labels_is_an_error(monkeypatch, result):
    opinions, _ = asked(monkeypatch, lambda _: verdict(result), "x")
    assert (opinions[0].choice, opinions[0].error) == (None, "the judge's answer is none of the options")


@pytest.mark.parametrize("content", ["SECRET", '{"outcome": "SECRET"}', "[]"])
def test_an_answer_that_cannot_be_read_costs_its_row_and_is_not_shown(monkeypatch, content):
    def route(body):
        return completion(content) if "SECRET" in body["messages"][0]["content"] else verdict("Yes")

    opinions, _ = asked(monkeypatch, route, "good", "SECRET", "good")
    assert [opinion.choice for opinion in opinions] == [0, None, 0]
    assert "cannot be read" in opinions[1].error
    assert "SECRET" not in opinions[1].error


def test_a_status_is_told_without_the_servers_words(monkeypatch):
    failed = Reply({"error": {"message": "SECRET"}}, 400)
    opinions, _ = asked(monkeypatch, in_turn(verdict("Yes"), failed), "x", "x")
    assert [opinion.error for opinion in opinions] == [None, "the judge answered with HTTP status 400"]


def test_a_model_that_takes_no_temperature_is_asked_without(monkeypatch):
    def route(body):
        if "temperature" in body:
            return Reply({"error": {"message": "Unsupported value: 'temperature'"}}, 400)
        return verdict("No")

    opinions, received = asked(monkeypatch, route, "x", "x")
    assert [opinion.choice for opinion in opinions] == [1, 1]
    assert len(received) == 3


def test_parameters_that_a_user_gives_are_sent_as_they_are(monkeypatch):
    _, received = asked(monkeypatch, lambda _: verdict("No"), "x", inference_params={"seed": 3})
    assert received[0][1]["seed"] == 3
    assert "temperature" not in received[0][1]


def test_a_refused_key_is_raised_once(monkeypatch):
    with pytest.raises(AccessDeniedError, match="HTTP status 401") as told:
        asked(monkeypatch, lambda _: Reply({"error": {"message": "key sk-secret"}}, 401), "x", "x")
    assert "sk-secret" not in str(told.value)


def test_a_missing_key_is_told_in_mlflows_words(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(InvalidInputError, match="OPENAI_API_KEY environment variable must be set"):
        backend_of("openai:/m").ask([a_question("SECRET")], progress=False)


def test_an_address_without_a_server_is_told(monkeypatch):
    with remote_server() as server:
        pass
    judge = backend_of({"uri": "ollama:/m", "base_url": f"{server.url}/chat/completions", "num_retries": 0})
    with pytest.raises(EngineUnavailableError, match="cannot be reached"):
        judge.ask([a_question("SECRET")], progress=False)


def test_a_key_is_not_described():
    described = backend_of({"uri": "openai:/m", "num_retries": 2}).describe()
    assert described["uri"] == "openai:/m"
    assert described["mlflow"] == mlflow.__version__
    assert "sk-" not in json.dumps(described)


@pytest.mark.skipif(Version(mlflow.__version__) < Version("3.17"), reason="typed decisions came with MLflow 3.17")
def test_a_judge_of_typed_decisions_tells_probabilities(monkeypatch):
    shares = {"loops": 0.25, "classes": 0.5, "Correct but short": 0.25}
    answer = {"type": "choice", "choice": "classes", "confidence": 0.5, "probabilities": shares}

    def route(body):
        assert set(body["questions"]["evaluation"]["criteria"]) == set(shares)
        assert "a loop {{ repeats }}" in body["state"]["inputs"]
        return Reply({"model": "m", "answers": {"evaluation": answer}, "usage": None})

    monkeypatch.setenv("TYPESAFE_API_KEY", "none")
    question = a_question("a loop {{ repeats }}", "choice", CHOICES)
    with remote_server(systemone=route) as server:
        judge = backend_of({"uri": "typesafe:/m", "base_url": server.url})
        (opinion,) = judge.ask([question], progress=False)
    assert opinion.error is None
    assert opinion.choice == 1
    assert [math.exp(p) for p in opinion.logprobs] == pytest.approx([0.25, 0.5, 0.25])
    assert opinion.choice_mass is None


def test_a_busy_provider_is_asked_again_as_often_as_was_said(monkeypatch):
    began = time.monotonic()
    opinions, received = asked(monkeypatch, lambda _: Reply({}, 429), "x", num_retries=1)
    assert opinions[0].error == "the judge answered with HTTP status 429"
    assert len(received) == 2
    assert time.monotonic() - began < 20
