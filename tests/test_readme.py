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


@pytest.fixture
def directory_of_a_reader(tiny_llama, tracking, tmp_path, monkeypatch):
    """An empty directory with the tiny model in it, as the README's examples expect."""
    shutil.copytree(tiny_llama, tmp_path / "tiny-llm")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_examples_run(directory_of_a_reader, capsys):
    names: dict[str, object] = {}
    for block in readme.blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    assert len(names["found"]) == 1
    assert capsys.readouterr().out.strip()  # the streamed answer
    run_commands(directory_of_a_reader)


def run_commands(directory):
    """The `mlflow models` commands of the README, as they are but for the port."""
    serve, *others = [line for block in readme.blocks("bash") for line in block.splitlines() if ".venv" not in line]
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
                in_this_environment(line) if line.startswith("mlflow") else line.replace("5001", str(port))
                for line in others
            )
        ]
    curl, _, predict = answers
    assert '"chat.completion"' in curl
    assert '"predictions"' in predict


def in_this_environment(line: str) -> list[str]:
    program, *arguments = shlex.split(line)
    assert program == "mlflow"
    return [sys.executable, "-m", "mlflow", *arguments]


def test_the_two_commands_set_up_everything_themselves():
    commands = [block for block in readme.blocks("bash") if ".venv" in block]
    assert len(commands) == 2
    for command, ending in zip(commands, ["examples/quickstart.py", "-m pytest"], strict=True):
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install torch==")
        assert command.strip().endswith(f".venv/bin/python {ending}")


def test_the_table_of_settings_is_that_of_the_code():
    written = readme.SETTINGS.search(readme.PATH.read_text(encoding="utf-8"))
    assert written is not None
    assert written[0] == readme.settings_table(), "run: python -m tests.readme"


def test_mlflow_in_the_readme_is_the_one_tested():
    assert mlflow.__version__.startswith(("3.11", "3.17"))
