"""Answers as server-sent events."""

from __future__ import annotations

import json
import socket
import time

import pytest
from openai.types.chat import ChatCompletionChunk

CHAT = {"messages": [{"role": "user", "content": "What is a loop?"}], "max_tokens": 6, "temperature": 0}
ENDLESS = {**CHAT, "max_tokens": 480, "ignore_eos": True}


def events(response):
    return [line.removeprefix("data: ") for line in response.iter_lines() if line]


def stream(client, path, body):
    with client.stream("POST", path, json={**body, "stream": True}) as response:
        assert response.status_code == 200, response.read()
        return response.headers, events(response)


def text_of(chunks, index=0):
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/invocations/v1/chat/completions", "/invocations"])
def test_a_stream_begins_with_the_role_and_ends_with_done(client, path):
    headers, lines = stream(client, path, {**CHAT, "stream_options": {"include_usage": True}})
    assert headers["content-type"].startswith("text/event-stream")
    assert headers["x-accel-buffering"] == "no"
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk)
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[-1]["usage"]["completion_tokens"] == 6
    assert chunks[-2]["choices"][0]["finish_reason"] in ("stop", "length")
    whole = client.post("/v1/chat/completions", json=CHAT).json()
    assert text_of(chunks) == whole["choices"][0]["message"]["content"]


def test_choices_come_mixed_and_each_is_whole(client):
    body = {**CHAT, "n": 3, "temperature": 1, "seed": 3, "max_tokens": 20}
    _, lines = stream(client, "/v1/chat/completions", body)
    chunks = [json.loads(line) for line in lines[:-1]]
    whole = client.post("/v1/chat/completions", json=body).json()
    assert [text_of(chunks, i) for i in range(3)] == [choice["message"]["content"] for choice in whole["choices"]]
    order = [choice["index"] for chunk in chunks for choice in chunk["choices"]]
    assert order != sorted(order)


def test_a_completion_streams(client):
    body = {"prompt": ["A loop", "A class"], "max_tokens": 5}
    _, lines = stream(client, "/v1/completions", body)
    whole = client.post("/v1/completions", json=body).json()
    texts = ["", ""]
    for line in lines[:-1]:
        for choice in json.loads(line)["choices"]:
            texts[choice["index"]] += choice["text"]
    assert texts == [choice["text"] for choice in whole["choices"]]


def test_an_error_before_the_first_token_has_a_status(client):
    response = client.post("/v1/chat/completions", json={**CHAT, "stream": True, "max_tokens": 10**6})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("kind", ["stream", "whole", "rows"])
def test_a_client_that_is_gone_leaves_nothing_in_the_engine(served, kind, end):
    body = {
        "stream": {**ENDLESS, "stream": True},
        "whole": ENDLESS,
        "rows": {"inputs": ["a"] * 40, "params": {"max_tokens": 480}},
    }[kind]
    path = "/invocations" if kind == "rows" else "/v1/chat/completions"
    raw = json.dumps(body).encode()
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = (
            f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(raw)}\r\n\r\n"
        )
        connection.sendall(head.encode() + raw)
        deadline = time.monotonic() + 30
        while served.engine.stats().running_requests == 0:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        if end == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    served.wait_until_idle()


@pytest.fixture(scope="module")
def narrow(serve):
    limits = {"STREAMS": "1", "QUEUE_SIZE": "2", "PROMPT_TOKENS": "20", "NEW_TOKENS": "490"}
    with serve(environ={f"MLFLOW_LLM_MAX_{name}": value for name, value in limits.items()}) as running:
        yield running


def test_one_stream_more_than_allowed_is_refused_until_one_ends(narrow):
    with narrow.client() as client:
        with client.stream("POST", "/v1/chat/completions", json={**ENDLESS, "stream": True}) as response:
            assert response.status_code == 200
            refused = client.post("/v1/chat/completions", json={**CHAT, "stream": True})
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
            assert refused.headers["retry-after"] == "1"
            assert "MLFLOW_LLM_MAX_STREAMS" in refused.json()["error"]["message"]
            assert client.post("/v1/chat/completions", json=CHAT).status_code == 200
        narrow.wait_until_idle()
        assert stream(client, "/v1/chat/completions", CHAT)[1][-1] == "[DONE]"


def test_one_answer_more_than_may_be_open_is_refused(narrow):
    with narrow.client() as client:
        with client.stream("POST", "/v1/chat/completions", json={**ENDLESS, "stream": True, "n": 2}) as response:
            assert response.status_code == 200
            for path, body in (
                ("/v1/chat/completions", CHAT),
                ("/invocations", {"inputs": ["a"]}),
                ("/invocations", CHAT),
            ):
                refused = client.post(path, json=body)
                assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
                assert "MLFLOW_LLM_MAX_QUEUE_SIZE" in refused.json()["error"]["message"]
        narrow.wait_until_idle()


def test_limits_for_tokens_hold(narrow):
    with narrow.client() as client:
        long = client.post("/v1/completions", json={"prompt": [5] * 21, "max_tokens": 1})
        assert "21 tokens; this server allows 20 (MLFLOW_LLM_MAX_PROMPT_TOKENS)" in long.json()["error"]["message"]
        much = client.post("/v1/completions", json={"prompt": [5], "max_tokens": 491})
        assert "491 new tokens are asked for; this server allows 490" in much.json()["error"]["message"]
        assert (long.status_code, much.status_code) == (400, 400)


@pytest.fixture(scope="module")
def hasty(serve):
    with serve(environ={"MLFLOW_LLM_REQUEST_TIMEOUT_S": "0.05"}) as running:
        yield running


def test_a_request_that_takes_too_long_ends_with_504_and_frees_its_slot(hasty):
    with hasty.client() as client:
        whole = client.post("/v1/chat/completions", json=ENDLESS)
        assert (whole.status_code, whole.json()["error"]["code"]) == (504, "request_timeout")
        hasty.wait_until_idle()


def test_a_stream_that_takes_too_long_ends_with_an_error_event(hasty):
    with (
        hasty.client() as client,
        client.stream("POST", "/v1/chat/completions", json={**ENDLESS, "stream": True}) as response,
    ):
        if response.status_code == 504:  # before the first token, on a slow machine
            return
        lines = events(response)
    assert json.loads(lines[-2])["error"]["code"] == "request_timeout"
    assert lines[-1] == "[DONE]"
    hasty.wait_until_idle()
