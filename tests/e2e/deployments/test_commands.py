"""Every verb of `mlflow deployments`, as a shell runs it: each command a process of its own."""

from __future__ import annotations

import ast
import json

import pytest

from tests.e2e.deployments.conftest import mlflow_command, processes_with

pytestmark = pytest.mark.slow


def deployments(*arguments: str, status: int = 0) -> str:
    return mlflow_command("deployments", *arguments, status=status)


def shown(text: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)


def test_a_deployment_lives_through_all_its_verbs(home, chat_model, trivial, tmp_path):
    at = ("-t", "local")
    output = deployments("create", *at, "--name", "chat", "-m", str(chat_model), "-C", "labels=team=search")
    assert "quantized_llm deployment chat is created" in output

    before = shown(deployments("get", *at, "--name", "chat"))
    assert (before["status"], before["flavor"], before["task"]) == ("ready", "quantized_llm", "llm/v1/chat")
    assert before["labels"] == "{'team': 'search'}"

    request, answer = tmp_path / "request.json", tmp_path / "answer.json"
    messages = [{"role": "system", "content": "123"}, {"role": "user", "content": "What is a loop?"}]
    request.write_text(json.dumps({"messages": messages, "max_tokens": 4, "temperature": 0}))
    said = json.loads(deployments("predict", *at, "--name", "chat", "-I", str(request)).splitlines()[-1])
    assert said["usage"]["completion_tokens"] == 4
    deployments("predict", *at, "--name", "chat", "-I", str(request), "-O", str(answer))
    assert json.loads(answer.read_text())["choices"] == said["choices"]
    request.write_text('{"prompt": "A loop", "max_tokens": 3}')
    said = json.loads(deployments("predict", *at, "--name", "chat", "-I", str(request)).splitlines()[-1])
    assert said["object"] == "text_completion"

    output = deployments("update", *at, "--name", "chat", "-m", str(trivial("new")))
    assert "Deployment chat is updated (with flavor python_function)" in output
    after = shown(deployments("get", *at, "--name", "chat"))
    assert (after["url"], after["supervisor_pid"]) == (before["url"], before["supervisor_pid"])
    listed = ast.literal_eval(deployments("list", *at).partition("\n")[2].strip())
    assert [(found["name"], found["status"]) for found in listed] == [("chat", "ready")]

    assert "Endpoint e is created" in deployments("create-endpoint", *at, "--endpoint", "e", "-C", "traffic=chat=1")
    request.write_text('{"inputs": ["x"]}')
    said = json.loads(deployments("predict", *at, "--endpoint", "e", "-I", str(request)).splitlines()[-1])
    assert [row[0] for row in said["predictions"]] == ["new"]
    assert "Endpoint e is updated" in deployments("update-endpoint", *at, "--endpoint", "e", "-C", "traffic=chat=2")
    assert "'chat': 2.0" in deployments("get-endpoint", *at, "--endpoint", "e")
    assert "'name': 'e'" in deployments("list-endpoints", *at)
    assert "Endpoint e is deleted" in deployments("delete-endpoint", *at, "--endpoint", "e")

    output = deployments("explain", *at, "--name", "chat", "-I", str(request), status=1)
    assert "Error: The target `local` explains no predictions" in output
    assert "Traceback" not in output

    assert "Deployment chat is deleted" in deployments("delete", *at, "--name", "chat")
    assert "Deployment chat is deleted" in deployments("delete", *at, "--name", "chat")
    assert processes_with(str(home)) == []


def test_a_model_that_does_not_load_fails_with_its_reason_and_leaves_nothing(home, trivial):
    output = deployments("create", "-t", "local", "--name", "bad", "-m", str(trivial("broken")), status=1)
    assert "ValueError: these weights are broken" in output
    assert "mlflow.exceptions" not in output
    assert list((home / "deployments").iterdir()) == []
    assert processes_with(str(home)) == []


def test_help_documents_every_key():
    output = deployments("help", "-t", "local")
    for key in ("port", "model_config", "api_key_file", "strategy", "MLFLOW_DEPLOYMENT_FLAVOR", "traffic"):
        assert f"\n  {key} " in output


def test_run_local_serves_until_ctrl_c(home, trivial, tmp_path):
    import signal
    import subprocess
    import sys

    import httpx

    from tests.e2e.serving import free_port, wait_for

    port = free_port()
    command = ["deployments", "run-local", "-t", "local", "--name", "here", "-m", str(trivial("here"))]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *command, "-C", f"port={port}"], stdout=log, stderr=log
        )

    def answers() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/ping").status_code == 200
        except httpx.TransportError:
            assert process.poll() is None, (tmp_path / "log").read_text()
            return False

    wait_for(answers, 120)
    assert deployments("list", "-t", "local").strip().endswith("[]")
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0, (tmp_path / "log").read_text()
    said = (tmp_path / "log").read_text()
    assert f"here answers at http://127.0.0.1:{port}. Ctrl-C ends it." in said
    assert "here stopped stopped by SIGINT" in said
    assert "Traceback" not in said
    assert processes_with(str(trivial("here"))) == []
