"""A sample of the requests as MLflow traces."""

from __future__ import annotations

import mlflow
import pytest
from mlflow.entities import SpanType
from mlflow.tracing.constant import SpanAttributeKey

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.serving.tracing import SAMPLE, Tracer

CHAT = {"messages": [{"role": "user", "content": "SECRET question"}], "max_tokens": 3}
LONG = {**CHAT, "max_tokens": 200, "ignore_eos": True}


@pytest.mark.parametrize("value", ["-0.1", "1.1", "often", "nan"])
def test_a_share_that_is_none_is_an_error(value):
    with pytest.raises(InvalidInputError, match=r"MLFLOW_LLM_TRACE_SAMPLE must be a number from 0 \(off\) to 1"):
        Tracer.from_environment({SAMPLE: value})


def traces_after(serve, monkeypatch, sample):
    monkeypatch.setenv(SAMPLE, sample)
    with serve() as running, running.client() as client:
        whole = client.post("/v1/chat/completions", json={**CHAT, "n": 2}, headers={"x-request-id": "mine"})
        several = {"prompt": ["A loop", "A class of its own"], "n": 2, "max_tokens": 2}
        answer = client.post("/v1/completions", json=several, headers={"x-request-id": "several"}).json()
        stream = client.post("/v1/chat/completions", json={**CHAT, "stream": True})
        assert (whole.status_code, stream.status_code) == (200, 200)
    mlflow.flush_trace_async_logging()
    return [whole.json(), answer], mlflow.search_traces(return_type="list")


@pytest.mark.filterwarnings("ignore")
def test_each_traced_request_is_one_span_with_its_tokens_and_no_text(serve, tracking, monkeypatch):
    answers, traces = traces_after(serve, monkeypatch, "1")
    spans = [span for trace in traces for span in trace.data.spans]
    assert [span.span_type for span in spans] == [SpanType.CHAT_MODEL] * 3
    for request_id, answer in zip(["mine", "several"], answers, strict=True):
        [span] = [span for span in spans if span.attributes["request_id"] == request_id]
        check(span, answer)
    assert "SECRET" not in str([span.to_dict() for span in spans])


def check(span, answer):
    usage = span.attributes[SpanAttributeKey.CHAT_USAGE]
    assert usage["output_tokens"] == answer["usage"]["completion_tokens"]
    assert usage["input_tokens"] == answer["usage"]["prompt_tokens"]
    assert span.attributes[SpanAttributeKey.MODEL] == answer["model"]
    assert 0 < span.attributes["time_to_first_token_s"] < (span.end_time_ns - span.start_time_ns) / 1e9


def test_requests_of_every_kind_are_traced_also_those_that_fail(serve, tracking, monkeypatch):
    monkeypatch.setenv(SAMPLE, "1")
    question = {"state": "SECRET", "questions": {"right": {"type": "noul", "instructions": "Is it?"}}}
    bodies = {
        "rows": ("/invocations", {"inputs": ["SECRET", "A loop"], "params": {"max_tokens": 2}}),
        "decision": ("/v1/systemone", question),
        "scored": ("/v1/completions", {"prompt": "SECRET", "max_tokens": 0, "echo": True}),
        "refused": ("/v1/chat/completions", {**CHAT, "temperature": "SECRET"}),
        "unreadable": ("/invocations", {"inputs": "SECRET", "params": 1}),
    }
    with serve() as running, running.client() as client:
        for name, (path, body) in bodies.items():
            client.post(path, json=body, headers={"x-request-id": name})
        with client.stream("POST", "/v1/chat/completions", json={**LONG, "stream": True}) as stream:
            next(stream.iter_lines())
        running.wait_until_idle()
        client.get("/v1/models")
    mlflow.flush_trace_async_logging()
    spans = [span for trace in mlflow.search_traces(return_type="list") for span in trace.data.spans]
    found = {span.attributes["request_id"]: span for span in spans}
    statuses = {name: found[name].attributes["http_status"] for name in bodies}
    assert statuses == {"rows": 200, "decision": 200, "scored": 200, "refused": 400, "unreadable": 400}
    [left] = [span for name, span in found.items() if name not in bodies]
    assert (left.attributes["http_status"], left.status.status_code.name) == (499, "ERROR")
    assert [found[name].status.status_code.name for name in bodies] == ["OK"] * 3 + ["ERROR"] * 2
    usages = [found[name].attributes[SpanAttributeKey.CHAT_USAGE] for name in ("rows", "decision", "scored")]
    assert [usage["output_tokens"] for usage in usages] == [4, 0, 0]
    assert all(usage["input_tokens"] > 0 for usage in usages)
    assert "SECRET" not in str([span.to_dict() for span in spans])


def test_nothing_is_traced_by_default(serve, tracking, monkeypatch):
    assert traces_after(serve, monkeypatch, "0")[1] == []
