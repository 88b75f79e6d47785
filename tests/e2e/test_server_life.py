"""The life of a server process: drained within its bound, with workers that do not outlive or disturb one another."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time

import httpx
import psutil
import pytest

from mlflow_llm_plugins import quantized_llm
from tests.e2e.serving import WAIT_S, free_port, metric, ready, serve_command, served, uvicorn_of, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="signals")]

CHAT = {"messages": [{"role": "user", "content": "What is a loop?"}], "max_tokens": 4, "temperature": 0}
ENDLESS = {**CHAT, "max_tokens": 480, "ignore_eos": True, "stream": True}


@pytest.fixture(scope="module")
def artifact(tiny_llama, tmp_path_factory):
    path = tmp_path_factory.mktemp("life") / "model"
    quantized_llm.save_model(str(tiny_llama), str(path), bundle_plugin=False)
    return path


class Stream(threading.Thread):
    """Reads one endless stream."""

    def __init__(self, url):
        super().__init__()
        self.began, self.lines, self.error, self._url = threading.Event(), [], None, url
        self.start()

    def run(self):
        try:
            with httpx.stream("POST", f"{self._url}/v1/chat/completions", json=ENDLESS, timeout=WAIT_S) as response:
                for line in response.iter_lines():
                    if line:
                        self.lines.append(line.removeprefix("data: "))
                        self.began.set()
        except httpx.HTTPError as error:
            self.error = error
        finally:
            self.began.set()


def test_sigterm_under_16_streams_ends_them_at_the_limit_and_exits_with_0(artifact, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_LLM_DRAIN_TIMEOUT_S", "0.2")
    port = free_port()
    command = serve_command(str(artifact), port)
    with served(command, port, tmp_path / "log") as client:
        wait_for(lambda: ready(client))
        process = uvicorn_of(command)
        streams = [Stream(str(client.base_url)) for _ in range(16)]
        for stream in streams:
            assert stream.began.wait(WAIT_S)
        process.send_signal(signal.SIGTERM)
        for stream in streams:
            stream.join(WAIT_S)
        assert process.wait(WAIT_S) in (0, None)  # of another process's child only its end can be known
        with pytest.raises(httpx.TransportError):
            client.get("/ready")
    for stream in streams:
        assert stream.error is None
        assert stream.lines[-1] == "[DONE]"
        last = json.loads(stream.lines[-2])
        assert "error" not in last or last["error"]["code"] == "interrupted"
    assert any("error" in json.loads(stream.lines[-2]) for stream in streams)
    log = (tmp_path / "log").read_text()
    assert "Finished server process" in log
    assert "Traceback" not in log


def test_a_short_answer_is_finished_before_the_process_ends(artifact, tmp_path):
    port = free_port()
    command = serve_command(str(artifact), port)
    with served(command, port, tmp_path / "log") as client:
        wait_for(lambda: ready(client))
        stream = Stream(str(client.base_url))
        assert stream.began.wait(WAIT_S)
        uvicorn_of(command).send_signal(signal.SIGTERM)
        stream.join(WAIT_S)
    assert stream.lines[-1] == "[DONE]"
    assert json.loads(stream.lines[-2])["choices"][0]["finish_reason"] == "length"


def test_rows_that_are_open_at_sigterm_are_all_answered(artifact, tmp_path):
    port = free_port()
    command = serve_command(str(artifact), port)
    with served(command, port, tmp_path / "log") as client:
        wait_for(lambda: ready(client))
        answers = []
        rows = {"inputs": [f"row {i}" for i in range(120)], "params": {"max_tokens": 20}}
        thread = threading.Thread(target=lambda: answers.append(client.post("/invocations", json=rows)))
        with httpx.Client(base_url=client.base_url) as other:
            thread.start()
            wait_for(lambda: metric(other, "requests_running") > 0)
        uvicorn_of(command).send_signal(signal.SIGTERM)
        thread.join(WAIT_S)
    assert answers[0].status_code == 200, answers[0].text
    assert len(answers[0].json()["predictions"]) == 120


def test_sigterm_is_bounded_while_prompts_are_scored_and_bodies_are_sent(artifact, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_LLM_DRAIN_TIMEOUT_S", "0.5")
    port = free_port()
    command = serve_command(str(artifact), port)
    with served(command, port, tmp_path / "log") as client:
        wait_for(lambda: ready(client))
        process = uvicorn_of(command)
        address = ("127.0.0.1", port)
        with socket.create_connection(address) as half, socket.create_connection(address) as scoring:
            half.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
            prompts = json.dumps({"prompt": [[5] * 500] * 250, "max_tokens": 0, "echo": True, "logprobs": 1}).encode()
            head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(prompts)}\r\n\r\n"
            scoring.sendall(head.encode() + prompts)
            time.sleep(1.0)
            process.send_signal(signal.SIGTERM)
            assert b" 503 " in half.recv(1000)
            assert b" 503 " in scoring.recv(1000)
            process.wait(WAIT_S)
    log = (tmp_path / "log").read_text()
    assert "Finished server process" in log
    assert "Traceback" not in log


def test_sigusr1_lets_kept_connections_go_and_serves_on(artifact, tmp_path):
    port = free_port()
    command = serve_command(str(artifact), port)
    with served(command, port, tmp_path / "log") as client:
        wait_for(lambda: ready(client))
        assert "connection" not in client.post("/v1/chat/completions", json=CHAT).headers
        uvicorn_of(command).send_signal(signal.SIGUSR1)
        wait_for(lambda: client.get("/health").headers.get("connection") == "close")
        for _ in range(3):
            answer = client.post("/v1/chat/completions", json=CHAT)
            assert (answer.status_code, answer.headers["connection"]) == (200, "close")


def workers_of(process):
    return [child for child in process.children() if is_worker(child)]


def is_worker(process):
    try:
        return "spawn_main" in " ".join(process.cmdline())
    except psutil.Error:  # it was killed just now
        return False


def test_two_workers_share_the_metrics_and_one_that_is_killed_takes_only_its_own_requests(artifact, tmp_path):
    port = free_port()
    command = serve_command(str(artifact), port, "-w", "2")
    log = tmp_path / "log"
    with served(command, port, log) as client:
        wait_for(lambda: ready(client))
        process = uvicorn_of(command)
        first = wait_for(lambda: len(found := workers_of(process)) == 2 and found)
        wait_for(lambda: log.read_text().count("holds a copy of the model") == 2)
        before = metric(client, "completion_tokens_total")
        for _ in range(12):
            with httpx.Client(base_url=client.base_url, timeout=WAIT_S) as other:  # a new connection, to either worker
                assert other.post("/v1/chat/completions", json={**CHAT, "ignore_eos": True}).status_code == 200
        assert metric(client, "completion_tokens_total") - before == 48

        streams = [Stream(str(client.base_url)) for _ in range(8)]
        for stream in streams:
            assert stream.began.wait(WAIT_S)
        victim = first[0]
        victim.kill()
        for stream in streams:
            stream.join(WAIT_S)
        whole = [stream for stream in streams if stream.lines and stream.lines[-1] == "[DONE]"]
        cut = [stream for stream in streams if stream.error is not None]
        assert len(whole) + len(cut) == 8
        assert whole
        wait_for(lambda: len(found := workers_of(process)) == 2 and victim not in found)
        with httpx.Client(base_url=client.base_url, timeout=WAIT_S) as other:
            wait_for(lambda: ready(other))
            assert other.post("/v1/chat/completions", json=CHAT).status_code == 200
            assert metric(other, "requests_running") == 0


def test_no_worker_outlives_a_parent_that_is_killed(artifact, tmp_path):
    port = free_port()
    command = serve_command(str(artifact), port, "-w", "2")
    with served(command, port, tmp_path / "log") as client:
        wait_for(lambda: ready(client))
        process = uvicorn_of(command)
        family = wait_for(lambda: len(found := workers_of(process)) == 2 and found)
        wait_for(lambda: (tmp_path / "log").read_text().count("Application startup complete") == 2)
        process.kill()
        _, alive = psutil.wait_procs(family, WAIT_S)
    assert not alive


@pytest.mark.parametrize("shown", ["0", "1"])
def test_the_log_has_prompts_only_where_that_is_asked_for(artifact, tmp_path, monkeypatch, shown):
    monkeypatch.setenv("MLFLOW_LLM_LOG_PROMPTS", shown)
    port = free_port()
    with served(serve_command(str(artifact), port), port, tmp_path / "log") as client:
        for path in ("/v1/chat/completions", "/invocations"):
            assert client.post(path, json=CHAT).status_code == 200
            assert client.post(path, json={**CHAT, "max_tokens": 10**6}).status_code == 400
        assert (
            client.post("/invocations", json={"inputs": ["What is a loop?"], "params": {"max_tokens": 0}}).status_code
            == 400
        )
    assert ("What is a loop?" in (tmp_path / "log").read_text()) == (shown == "1")


def test_a_server_on_every_interface_without_a_key_says_so_loudly(artifact, tmp_path):
    port = free_port()
    command = serve_command(str(artifact), port)
    command[command.index("-h") + 1] = "0.0.0.0"
    with served(command, port, tmp_path / "log") as client:
        wait_for(lambda: ready(client))
    assert "ANYBODY WHO REACHES 0.0.0.0 CAN USE THIS SERVER" in (tmp_path / "log").read_text()
