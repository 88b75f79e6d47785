"""A sample of the requests as MLflow traces."""

from __future__ import annotations

import mlflow
import pytest
from mlflow.entities import SpanType
from mlflow.tracing.constant import SpanAttributeKey

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.serving.tracing import SAMPLE, Tracer

CHAT = {"messages": [{"role": "user", "content": "SECRET question"}], "max_tokens": 3}


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


def test_nothing_is_traced_by_default(serve, tracking, monkeypatch):
    assert traces_after(serve, monkeypatch, "0")[1] == []
