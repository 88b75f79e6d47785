"""The limits of a server hold for what goes through MLflow's own function as well, and for whole requests."""

from __future__ import annotations

import re
import threading
import time

import pytest

from mlflow_llm_plugins import quantized_llm
from tests.e2e.serving import metric

MESSAGES = [{"role": "user", "content": "What is a loop?"}]
LIMITS = {"NEW_TOKENS": "5", "STOP": "2", "QUEUE_SIZE": "4", "ANSWERS": "6"}


@pytest.fixture(scope="module")
def narrow(serve):
    environ = {f"MLFLOW_LLM_MAX_{name}": value for name, value in LIMITS.items()}
    with serve(environ=environ, max_new_tokens=400) as running:
        yield running


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ({"inputs": ["a"], "params": {"max_tokens": 6}}, "this server allows 5 (MLFLOW_LLM_MAX_NEW_TOKENS)"),
        ({"inputs": {"messages": MESSAGES, "max_tokens": 6}}, "this server allows 5 (MLFLOW_LLM_MAX_NEW_TOKENS)"),
        ({"inputs": ["a"], "params": {"stop_sequences": ["a", "b", "c"]}}, "at most 2 (MLFLOW_LLM_MAX_STOP)"),
        ({"messages": MESSAGES, "stop_sequences": ["a", "b", "c"]}, "at most 2 (MLFLOW_LLM_MAX_STOP)"),
        ({"prompt": ["a", "b", "c"], "n": 3}, "9 answers; this server allows at most 6 (MLFLOW_LLM_MAX_ANSWERS)"),
        ({"messages": MESSAGES, "params": {"max_tokens": 1}}, ""),
        ({"messages": MESSAGES, "prompt": "a"}, "give one of them"),
    ],
)
def test_no_payload_goes_round_a_limit(narrow, payload, words):
    with narrow.client() as client:
        response = client.post("/invocations", json=payload)
    assert response.status_code == 400, response.text
    assert words in response.json()["message"]


@pytest.mark.parametrize("payload", [{"inputs": ["a"] * 3}, {"messages": MESSAGES}, {"inputs": {"prompt": "a"}}])
def test_a_request_that_names_no_limit_gets_the_server_s(narrow, payload):
    with narrow.client() as client:
        before = metric(client, "completion_tokens_total")
        assert client.post("/invocations", json=payload | {}).status_code == 200
        made = metric(client, "completion_tokens_total") - before
    assert 0 < made <= 5 * len(payload.get("inputs", [1]) if isinstance(payload.get("inputs"), list) else [1])


def test_rows_are_open_only_as_far_as_there_are_slots_and_all_are_answered(narrow):
    most, done = 0, threading.Event()

    def watch():
        nonlocal most
        while not done.is_set():
            most = max(most, narrow.engine.stats().open_requests)
            time.sleep(0.0005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with narrow.client() as client:
        response = client.post("/invocations", json={"inputs": [f"row {i}" for i in range(40)]})
    done.set()
    watcher.join()
    assert len(response.json()["predictions"]) == 40
    assert most <= 4


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "status"), [("/v1/completions", 200), ("/invocations", 200), ("/v1/completions", 400)]
)
def test_every_answer_gives_its_slots_back(narrow, path, status, stream):
    body = {"prompt": ["a", "b"] if status == 200 else ["a", "x " * 600], "max_tokens": 2, "stream": stream}
    with narrow.client() as client:
        for _ in range(5):  # more than there are slots
            assert client.post(path, json=body).status_code == status


def test_rows_are_counted(narrow):
    with narrow.client() as client:
        before = metric(client, "completion_tokens_total")
        assert client.post("/invocations", json={"inputs": ["a", "b"]}).status_code == 200
        assert metric(client, "completion_tokens_total") - before > 0


def test_refusals_are_counted(narrow):
    with narrow.client() as client:
        client.post("/v1/chat/completions", content=b"x" * (5 * 2**20))
        assert re.search(r'requests_total\{route="refused",status="413"\} [1-9]', client.get("/metrics").text)


@pytest.mark.parametrize("body", [{"prompt": ["A loop"] * 200, "n": 5}, {"prompt": "x " * 100_000}])
def test_a_whole_request_has_one_deadline_and_huge_prompts_are_refused_at_once(serve, monkeypatch, body):
    monkeypatch.setenv("MLFLOW_LLM_REQUEST_TIMEOUT_S", "0.2")
    with serve(max_new_tokens=400) as running, running.client() as client:
        response = client.post("/v1/completions", json={**body, "ignore_eos": True})
        assert response.status_code in (400, 504)
        assert response.json()["error"]["code"] in ("context_length_exceeded", "request_timeout")
        running.wait_until_idle()
        assert client.post("/v1/completions", json={"prompt": "A", "max_tokens": 1}).status_code == 200


def test_requests_that_leave_while_they_are_submitted_leave_nothing_behind(served):
    """Each closes its connection after another short while; what is read then must not be submitted for nobody."""
    import socket

    schema = {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(20)}}
    body = b'{"messages":[{"role":"user","content":"hi"}],"max_tokens":450,"json_schema":%s}'
    raw = body % str(schema).replace("'", '"').encode()
    host, port = served.url.removeprefix("http://").split(":")
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(raw)}"
    for i in range(60):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head.encode() + b"\r\n\r\n" + raw)
            time.sleep(0.0005 * i)
    served.wait_until_idle()
    assert served.engine.stats().open_requests == 0


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/invocations"])
def test_the_length_that_a_model_brings_along_is_cut_not_refused(tiny_llama, serve, tmp_path, path):
    """Many checkpoints have a `max_new_tokens` that no context leaves room for."""
    lengths = {"max_new_tokens": 100_000, "min_new_tokens": 3}
    quantized_llm.save_model(str(tiny_llama), str(tmp_path / "model"), generation_config=lengths, bundle_plugin=False)
    with serve(tmp_path / "model", {"MLFLOW_LLM_MAX_NEW_TOKENS": "4"}) as running, running.client() as client:
        body = {"messages": MESSAGES, "ignore_eos": True}
        assert client.post(path, json=body).json()["usage"]["completion_tokens"] == 4
        assert client.post(path, json={**body, "max_tokens": 2}).json()["usage"]["completion_tokens"] == 2
        refused = client.post(path, json={**body, "max_tokens": 5})
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, None)
    with serve(tmp_path / "model") as running, running.client() as client:
        usage = client.post(path, json=body).json()["usage"]
        assert usage["total_tokens"] == running.engine.stats().max_context_length
