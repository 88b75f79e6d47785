"""The command from end to end, in a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.serving import free_port
from tests.loadtest.server import TOKENS, OpenAIServer

COMMAND = [sys.executable, "-m", "mlflow_llm_plugins.loadtest"]
DEADLINE_S = 120


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=DEADLINE_S)


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_closed_loop_prints_tables_and_saves_figures(server: OpenAIServer, tmp_path):
    file = tmp_path / "results" / "load.json"
    options = ["--clients", "3", "--requests", "6", "--warmup", "2", "--max-tokens", "8", "--prompt-words", "5"]
    more = ["--body", '{"temperature": 0}', "--goodput", "ttft=60,tpot=60,e2el=60", "--save", str(file)]
    done = run(server.url, *options, *more)
    assert (done.returncode, done.stderr) == (0, "")
    assert "6 of 6" in done.stdout
    assert f"saved {file}" in done.stdout
    saved = read(file)
    assert saved["completion_tokens"] == 6 * TOKENS
    assert saved["goodput"]["requests_per_second"] == saved["requests_per_second"]
    assert len(server.bodies) == 8
    assert all((body["max_tokens"], body["temperature"]) == (8, 0) for body in server.bodies)


def test_open_loop_of_whole_answers_of_the_scoring_server(server: OpenAIServer, tmp_path):
    file = tmp_path / "load.json"
    done = run(
        server.url, "--path", "/invocations", "--rate", "100", "--requests", "4", "--seed", "1", "--save", str(file)
    )
    assert done.returncode == 0, done.stderr
    saved = read(file)
    assert (saved["succeeded"], saved["completion_tokens"]) == (4, 4 * TOKENS)
    assert (saved["time_to_first_token"], saved["inter_token_latency"]) == (None, None)
    assert "stream" not in server.bodies[0]


def test_prompts_come_from_a_file_and_the_key_from_the_environment(server: OpenAIServer, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "s3cret")
    (tmp_path / "prompts.txt").write_text("first\nsecond\n", encoding="utf-8")
    file = tmp_path / "load.json"
    options = ["--prompts", str(tmp_path / "prompts.txt"), "--api-key-env", "MY_KEY", "--path", "/v1/completions"]
    done = run(server.url, "--clients", "1", "--requests", "2", *options, "--save", str(file))
    assert done.returncode == 0, done.stderr
    assert [body["prompt"] for body in server.bodies] == ["first", "second"]
    assert server.headers[0]["authorization"] == "Bearer s3cret"
    assert "s3cret" not in done.stdout + done.stderr + file.read_text(encoding="utf-8")


def test_command_fails_when_no_request_succeeds():
    done = run(f"http://127.0.0.1:{free_port()}", "--clients", "1", "--requests", "2")
    assert done.returncode == 1
    assert "failed: ConnectError" in done.stdout


def test_ctrl_c_shows_and_saves_what_was_measured_so_far(server: OpenAIServer, tmp_path):
    file, prompts = tmp_path / "load.json", tmp_path / "prompts.jsonl"
    models = ["steady", "steady", "hangs"]
    prompts.write_text("".join(json.dumps({"model": model}) + "\n" for model in models), encoding="utf-8")
    options = ["--clients", "1", "--requests", "3", "--prompts", str(prompts), "--save", str(file)]
    process = subprocess.Popen(
        [*COMMAND, server.url, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert server.hanging.wait(DEADLINE_S)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
    assert (process.returncode, errors) == (130, "")
    assert "2 of 3" in output
    assert "interrupted" in output
    saved = read(file)
    assert (saved["interrupted"], saved["succeeded"], saved["completion_tokens"]) == (True, 2, 2 * TOKENS)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ([], "one of the arguments --clients --rate is required"),
        (["--clients", "1", "--rate", "2"], "argument --rate: not allowed with argument --clients"),
        (["--clients", "0"], "options: clients=0: Input should be greater than or equal to 1"),
        (["--clients", "1", "--path", "/v1/models"], "options: path='/v1/models': must start with a slash and end in"),
        (["--clients", "1", "--body", "[1]"], "argument --body: must be a JSON object, got list"),
        (["--clients", "1", "--body", "x"], "argument --body: not JSON: "),
        (["--clients", "1", "--prompts", "/no/file"], "The prompts '/no/file' cannot be read: "),
        (["--clients", "1", "--save", "/dev/null/x"], "--save /dev/null/x cannot be written: "),
        (
            ["--clients", "1", "--no-stream", "--goodput", "ttft=1,e2el=2"],
            "goodput='ttft=1,e2el=2': whole answers have no ttft and no tpot. Limit e2el alone.",
        ),
    ],
)
def test_wrong_options_are_refused_before_anything_is_sent(options, problem):
    done = run("http://127.0.0.1:1", *options)
    assert done.returncode == 2
    assert problem in done.stderr
    assert "Traceback" not in done.stderr
