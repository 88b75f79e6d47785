"""Everything that the README shows is run, and what is generated in it is up to date."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys

import mlflow
import pytest

from tests import readme
from tests.e2e.serving import free_port, served

pytestmark = pytest.mark.slow

ADDRESS = "127.0.0.1:5001"


@pytest.fixture
def directory_of_a_reader(tiny_llama, tracking, tmp_path, monkeypatch):
    """An empty directory with the tiny model in it, as the README's examples expect."""
    shutil.copytree(tiny_llama, tmp_path / "tiny-llm")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_LLM_HOME", str(tmp_path / "home"))
    return tmp_path


def test_the_examples_run(directory_of_a_reader, capsys):
    names: dict[str, object] = {}
    alone = [block for block in readme.blocks("python") if ADDRESS not in block]
    assert "get_deploy_client" in alone[-1]
    asking = [block for block in readme.blocks("python") if ADDRESS in block]
    for block in alone:
        run(block, names)
    assert len(names["found"]) == 1
    assert capsys.readouterr().out.strip()  # the streamed answer
    run_commands(directory_of_a_reader, lambda port: [run(at(port, block), names) for block in asking])
    assert capsys.readouterr().out.strip().endswith(("loops", "classes"))  # what was streamed, and the verdict


def run(block, names):
    exec(compile(block, "README.md", "exec"), names)


def at(port, text):
    return text.replace(ADDRESS, f"127.0.0.1:{port}")


def run_commands(directory, ask):
    """The `mlflow models` commands of the README, as they are but for the port; `ask` gets it while they serve."""
    lines = [line for block in readme.blocks("bash") for line in block.splitlines() if ".venv" not in line]
    serve, *others = [line for line in lines if "mlflow deployments" not in line]
    assert serve.startswith("mlflow models serve")
    port = free_port()
    with served(in_this_environment(serve.replace("5001", str(port))), port, directory / "serve.log"):
        answers = [
            subprocess.run(
                ["bash", "-c", shlex.join(command) if isinstance(command, list) else command],
                capture_output=True,
                text=True,
                timeout=180,
                check=True,
            ).stdout
            for command in (
                in_this_environment(line) if line.startswith("mlflow") else at(port, line) for line in others
            )
        ]
        ask(port)
    chat, decision, _, predict = answers
    assert '"chat.completion"' in chat
    assert '"noul"' in decision
    assert '"predictions"' in predict


def test_the_deployments_run(directory_of_a_reader):
    from mlflow_llm_plugins import quantized_llm

    quantized_llm.log_model("tiny-llm", name="chat", registered_model_name="chat", bundle_plugin=False)
    (directory_of_a_reader / "request.json").write_text('{"inputs": ["What is a loop?"]}')
    commands = [line for block in readme.blocks("bash") for line in block.splitlines() if "mlflow deployments" in line]
    assert [shlex.split(line)[2] for line in commands] == ["create", "predict", "update", "get", "delete"]
    said = []
    for line in commands:
        command = in_this_environment(line.replace("5002", str(free_port())))
        said.append(subprocess.run(command, capture_output=True, text=True, timeout=180, check=True).stdout)
    assert "is created" in said[0]
    assert '"predictions"' in said[1]
    assert "status: ready" in said[3]


def in_this_environment(line: str) -> list[str]:
    program, *arguments = shlex.split(line)
    assert program == "mlflow"
    return [sys.executable, "-m", "mlflow", *arguments]


def test_the_two_commands_set_up_everything_themselves():
    commands = [block for block in readme.blocks("bash") if ".venv" in block]
    assert len(commands) == 2
    for command, ending in zip(commands, ["examples/quickstart.py\n", "-m pytest "], strict=True):
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install torch==")
        assert f" && .venv/bin/python {ending}" in command


@pytest.mark.parametrize("mark", readme.TABLES)
def test_a_generated_table_is_that_of_the_code(mark):
    assert readme.written(mark) == readme.TABLES[mark](), "run: python -m tests.readme"


def test_mlflow_in_the_readme_is_the_one_tested():
    assert mlflow.__version__.startswith(("3.11", "3.17"))
