"""Rows that an endpoint of a deployments client answers."""

from __future__ import annotations

import logging
import threading

import numpy as np
import pandas as pd
import pytest
from mlflow.deployments import BaseDeploymentClient
from mlflow.exceptions import MlflowException
from mlflow.models.evaluation.base import _get_model_from_deployment_endpoint_uri
from mlflow.protos.databricks_pb2 import RESOURCE_EXHAUSTED

from mlflow_llm_plugins.errors import InvalidInputError, UnsupportedFeatureError, mlflow_errors
from mlflow_llm_plugins.evaluation.predictions import PredictOptions, source_of

CHAT, COMPLETIONS = "llm/v1/chat", "llm/v1/completions"
PROMPTS = [f"row {i}" for i in range(9)]
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def prompt_of(inputs):
    return inputs["prompt"] if "prompt" in inputs else inputs["messages"][-1]["content"]


class FakeClient:
    """Answers in capitals; "BOOM" in a prompt fails. Without streams, as MLflow's own client for a server."""

    def __init__(self, task=CHAT, described=dict):
        self.task = task
        self.described = described
        self.asked = []
        self.most = self.running = 0
        self.lock = threading.Lock()

    def get_endpoint(self, endpoint):
        assert endpoint == "chat"
        return self.described(name=endpoint, task=self.task)

    def predict(self, deployment_name=None, inputs=None, endpoint=None):
        assert endpoint == "chat"
        with self.lock:
            self.asked.append(("predict", inputs))
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            return self.answer(inputs)
        finally:
            with self.lock:
                self.running -= 1

    def answer(self, inputs):
        prompt = prompt_of(inputs)
        if "BOOM" in prompt:
            raise MlflowException(f"I do not like {prompt}", error_code=RESOURCE_EXHAUSTED)
        text = prompt.upper()
        choice = {"text": text} if self.task == COMPLETIONS else {"message": {"content": text}}
        return {"choices": [choice], "usage": USAGE}


class StreamingClient(FakeClient):
    """Streams a character a chunk, between chunks without text."""

    def predict_stream(self, deployment_name=None, inputs=None, endpoint=None):
        self.asked.append(("stream", inputs))
        return self.chunks(inputs)

    def chunks(self, inputs):
        prompt = prompt_of(inputs)
        if "BOOM" in prompt:
            raise RuntimeError(prompt)
        yield {"choices": [{"delta": {"role": "assistant", "content": ""}}]}
        if "BREAKS" in prompt:
            yield {"error": {"message": f"bad {prompt}"}}
        for character in prompt.upper():
            yield {"choices": [{"delta": {"content": character}} if self.task == CHAT else {"text": character}]}
        yield {"choices": [{"delta": {}, "finish_reason": "stop"}]}
        if "stream_options" in inputs:
            yield {"choices": [], "usage": USAGE}


class StrictClient(StreamingClient):
    """Refuses a parameter, in streams as well."""

    def answer(self, inputs):
        if "max_token" in inputs:
            raise MlflowException("unknown field max_token")
        return super().answer(inputs)

    def chunks(self, inputs):
        self.answer(inputs)
        return super().chunks(inputs)


class NoUsageClient(StreamingClient):
    """A server that refuses what it does not know."""

    def chunks(self, inputs):
        if "stream_options" in inputs:
            raise MlflowException("unknown field stream_options")
        return super().chunks(inputs)


class RefusingClient(FakeClient):
    """Ours, for a deployment of another flavor."""

    def predict_stream(self, deployment_name=None, inputs=None, endpoint=None):
        self.asked.append(("stream", inputs))
        with mlflow_errors():
            raise UnsupportedFeatureError("Streams need a quantized LLM.")


class StockClient(FakeClient):
    """As clients that inherit MLflow's method."""

    def predict_stream(self, deployment_name=None, inputs=None, endpoint=None):
        self.asked.append(("stream", inputs))
        return BaseDeploymentClient.predict_stream(self)


@pytest.fixture
def asking(monkeypatch):
    """Client, column of rows, options -> a source that asks them."""

    def make(client, cells=PROMPTS, inference_params=None, **options):
        monkeypatch.setattr("mlflow.deployments.get_deploy_client", lambda *_: client)
        model = _get_model_from_deployment_endpoint_uri("endpoints:/chat", inference_params)
        return source_of(model, pd.DataFrame({"inputs": pd.Series(cells, dtype=object)}), PredictOptions(**options))

    return make


@pytest.mark.parametrize("task", [CHAT, COMPLETIONS, None])
def test_strings_are_asked_as_the_endpoint_s_task_wants(asking, task):
    client = FakeClient(task)
    found = asking(client).predict_all()
    assert [row.output for row in found] == [prompt.upper() for prompt in PROMPTS]
    assert {(row.prompt_tokens, row.completion_tokens, row.token_times) for row in found} == {(3, 2, ())}
    assert all(row.latency > 0 for row in found)
    key = "prompt" if task == COMPLETIONS else "messages"
    assert {tuple(inputs) for _, inputs in client.asked} == {(key,)}


class Described:
    def __init__(self, name, task):
        self.name, self.endpoint_type = name, task


def test_a_task_may_be_told_by_an_attribute(asking):
    client = FakeClient(COMPLETIONS, described=Described)
    asking(client).predict_all()
    assert all("prompt" in inputs for _, inputs in client.asked)


def test_conversations_and_whole_requests_are_sent_as_they_are(asking):
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}]
    client = FakeClient()
    cells = [messages, np.array(messages), {"messages": messages, "top_p": 0.5}]
    found = asking(client, cells, max_in_flight=1).predict_all()
    assert [row.output for row in found] == ["HI"] * 3
    sent = [inputs for _, inputs in client.asked]
    assert sent == [{"messages": messages}, {"messages": messages}, {"messages": messages, "top_p": 0.5}]


def test_parameters_are_in_each_request_and_the_evaluator_s_come_last(asking):
    client = FakeClient()
    asked = asking(client, inference_params={"max_tokens": 5, "seed": 1}, params={"max_tokens": 9})
    asked.predict_all()
    assert {(inputs["max_tokens"], inputs["seed"]) for _, inputs in client.asked} == {(9, 1)}
    assert asked.describe() == {
        "source": "endpoint",
        "endpoint": "chat",
        "task": CHAT,
        "max_in_flight": 32,
        "params": {"max_tokens": 9, "seed": 1},
    }


def test_rows_that_fail_leave_the_others_alone_and_their_text_out(asking):
    cells = ["a", "BOOM secret", None, 7, "b"]
    first, failed, missing, number, last = asking(FakeClient(), cells).predict_all()
    assert (first.output, last.output) == ("A", "B")
    assert failed.error == "the model raised MlflowException (RESOURCE_EXHAUSTED)"
    for row, shown in ((missing, "None"), (number, "7")):
        assert row.error == f"A row must be a string, a list of messages or a request as a dict, got {shown}."


@pytest.mark.parametrize("answer", [{"choices": []}, {"choices": [{"message": {"content": None}}]}, {"error": "x"}])
def test_an_answer_without_text_is_no_answer(asking, answer):
    client = FakeClient()
    client.answer = lambda inputs: answer
    assert {row.error for row in asking(client).predict_all()} == {"the answer has no text"}


@pytest.mark.parametrize(
    ("answer", "output"),
    [({"predictions": ["x"]}, "x"), ({"predictions": "x"}, "x"), ({"a": 1, "b": 2}, {"a": 1, "b": 2}), (["x"], "x")],
)
def test_other_endpoints_answers_are_taken_as_they_are(asking, answer, output):
    client = FakeClient(task=None)
    client.answer = lambda inputs: answer
    assert [row.output for row in asking(client, ["q"]).predict_all()] == [output]


def test_strings_cannot_be_asked_of_endpoints_for_something_else(asking):
    assert {row.error for row in asking(FakeClient("llm/v1/embeddings")).predict_all()} == {
        "An endpoint of type 'llm/v1/embeddings' needs whole requests as rows, got a string."
    }


def test_no_more_requests_are_open_than_allowed(asking):
    client, barrier = FakeClient(), threading.Barrier(3)
    answer = client.answer

    def together(inputs):
        barrier.wait(timeout=20)
        found = answer(inputs)
        barrier.wait(timeout=20)
        return found

    client.answer = together
    found = asking(client, max_in_flight=3).predict_all()
    assert [row.output for row in found] == [prompt.upper() for prompt in PROMPTS]
    assert client.most == 3


class TestUnloaded:
    @pytest.mark.parametrize("task", [CHAT, COMPLETIONS])
    def test_a_sample_is_streamed_and_each_piece_timed(self, asking, task):
        client = StreamingClient(task)
        asked = asking(client, params={"seed": 2})
        found = asked.predict_unloaded(4)
        sampled = {i: row for i, row in enumerate(found) if row is not None}
        assert len(sampled) == 4
        for i, row in sampled.items():
            assert row.output == PROMPTS[i].upper()
            assert len(row.token_times) == len(PROMPTS[i])
            assert list(row.token_times) == sorted(row.token_times)
            assert row.latency == row.token_times[-1] > 0
            assert (row.prompt_tokens, row.completion_tokens) == (3, 2)
        assert asked.can_stream
        kinds, inputs = zip(*client.asked, strict=True)
        assert kinds == ("stream",) * 5
        assert all(sent["stream_options"] == {"include_usage": True} and sent["seed"] == 2 for sent in inputs)
        assert prompt_of(inputs[0]) not in {PROMPTS[i] for i in sampled}

    def test_a_server_that_does_not_know_the_usage_streams_without_it(self, asking):
        client = NoUsageClient()
        found = [row for row in asking(client).predict_unloaded(3) if row is not None]
        assert [row.completion_tokens for row in found] == [None] * 3
        assert all(row.token_times and row.time_per_output_token is None for row in found)
        assert all("stream_options" not in inputs for _, inputs in client.asked[-3:])

    @pytest.mark.parametrize("kind", [FakeClient, RefusingClient, StockClient])
    def test_whole_answers_are_timed_where_there_are_no_streams(self, asking, kind, caplog):
        client = kind()
        with caplog.at_level(logging.WARNING):
            asked = asking(client)
            found = [row for row in asked.predict_unloaded(3) if row is not None]
        assert [row.output for row in found] == [prompt_of(inputs).upper() for _, inputs in client.asked[-3:]]
        assert all(row.latency > 0 and row.token_times == () for row in found)
        assert not asked.can_stream
        assert sum(name == "stream" for name, _ in client.asked) <= 1
        said = [record.message for record in caplog.records if "does not stream" in record.message]
        expected = "Endpoint 'chat' does not stream: only whole answers are timed."
        assert said == ([] if kind is FakeClient else [expected])

    def test_an_endpoint_that_refuses_the_parameters_is_not_said_to_have_no_streams(self, asking, caplog):
        found = asking(StrictClient(), params={"max_token": 5}).predict_unloaded(3)
        assert {row.error for row in found if row is not None} == {"the model raised MlflowException (INTERNAL_ERROR)"}
        assert "does not stream" not in caplog.text

    def test_a_row_that_fails_does_not_end_streaming(self, asking):
        cells = [*PROMPTS, "BOOM secret"]
        asked = asking(StreamingClient(), cells)
        found = asked.predict_unloaded(10)
        assert found[-1].error == "the model raised RuntimeError"
        assert all(row.token_times for row in found[:-1])
        assert asked.can_stream

    def test_a_row_that_cannot_be_sent_does_not_end_streaming(self, asking):
        several = {"messages": [{"role": "user", "content": "a"}], "n": 2}
        asked = asking(StreamingClient(), [*PROMPTS, several])
        found = asked.predict_unloaded(10)
        assert "n=2 is not supported" in found[-1].error
        assert all(row.token_times for row in found[:-1])
        assert asked.can_stream

    def test_an_error_inside_a_stream_is_a_reason(self, asking):
        found = asking(StreamingClient(), [*PROMPTS, "BREAKS secret"]).predict_unloaded(10)
        assert found[-1].error == "the endpoint reported an error while it streamed"
        assert [row.error for row in found[:-1]] == [None] * 9


@pytest.mark.parametrize("task", [CHAT, COMPLETIONS, None])
def test_several_answers_to_a_row_are_refused_before_any_is_asked(asking, task):
    client = FakeClient(task)
    with pytest.raises(UnsupportedFeatureError, match="n=2 is not supported for rows, which get one text each"):
        asking(client, params={"n": 2})
    assert client.asked == []
    asking(client, inference_params={"n": 2}, params={"n": 1}).predict_all()
    assert {inputs["n"] for _, inputs in client.asked} == {1}


def test_a_row_that_wants_several_answers_has_none(asking):
    request = {"messages": [{"role": "user", "content": "a"}], "n": 3}
    several, one = asking(FakeClient(), [request, {**request, "n": None}]).predict_all()
    assert several.error == "n=3 is not supported for rows, which get one text each; leave n out."
    assert one.output == "A"


def test_other_endpoints_may_give_n_a_meaning_of_their_own(asking):
    client = FakeClient("llm/v1/embeddings")
    client.answer = lambda inputs: {"predictions": [inputs["n"]]}
    assert asking(client, [{"input": "a"}], params={"n": 2}).predict_all()[0].output == 2


def test_without_a_deployments_target_it_is_said_how_to_set_one(monkeypatch):
    monkeypatch.setattr("mlflow.deployments.utils._deployments_target", None)
    monkeypatch.delenv("MLFLOW_DEPLOYMENTS_TARGET", raising=False)
    model = _get_model_from_deployment_endpoint_uri("endpoints:/chat")
    with pytest.raises(InvalidInputError) as refusal:
        source_of(model, pd.DataFrame({"inputs": PROMPTS}))
    assert str(refusal.value) == (
        "The endpoint 'chat' cannot be asked, as no deployments target is set: set MLFLOW_DEPLOYMENTS_TARGET, for "
        "example to local, or call mlflow.deployments.set_deployments_target('http://localhost:5000')."
    )


def test_an_endpoint_that_is_not_there_is_an_error_of_the_whole(asking):
    client = FakeClient()

    def missing(endpoint):
        raise MlflowException(f"No endpoint {endpoint}")

    client.get_endpoint = missing
    with pytest.raises(MlflowException, match="No endpoint chat"):
        asking(client)


def test_several_columns_need_a_name(monkeypatch):
    monkeypatch.setattr("mlflow.deployments.get_deploy_client", lambda *_: FakeClient())
    model = _get_model_from_deployment_endpoint_uri("endpoints:/chat")
    frame = pd.DataFrame({"a": ["x"], "b": ["y"]})
    with pytest.raises(InvalidInputError, match="Which column is the model asked with"):
        source_of(model, frame)
    assert source_of(model, frame, PredictOptions(input_column="b")).predict_all()[0].output == "Y"
