"""A state directory, and records of deployments that nobody runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlflow_llm_plugins.deployments.local.home import DeploymentFolder, Home
from mlflow_llm_plugins.deployments.local.process_identity import ProcessIdentity
from mlflow_llm_plugins.deployments.local.records import ModelSource, Status, write_record
from mlflow_llm_plugins.deployments.local.specs import first_spec

WAIT_S = 30


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "state")
    made.make()
    return made


@pytest.fixture
def model(tmp_path: Path) -> ModelSource:
    return ModelSource(
        uri="models:/m@a",
        resolved="models:/m/3",
        path=tmp_path,
        flavor="quantized_llm",
        is_ours=True,
        task="llm/v1/chat",
    )


@pytest.fixture
def gone() -> ProcessIdentity:
    """A process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = ProcessIdentity.of(process.pid)
    process.communicate(timeout=WAIT_S)
    return identity


@pytest.fixture
def recorded(home: Home, model: ModelSource, gone: ProcessIdentity) -> Callable[..., DeploymentFolder]:
    """Write the records of a deployment whose processes have ended."""

    def write(name: str = "chat", spec: dict | None = None, status: dict | None = None) -> DeploymentFolder:
        folder = home.folder(name)
        folder.path.mkdir(parents=True)
        asked = first_spec(name, {}).model_copy(update={"model": model, **(spec or {})})
        write_record(asked, folder.spec)
        if status is not None:
            found = Status(token=asked.token, supervisor=gone, serving=asked, port=5001)
            write_record(found.model_copy(update=status), folder.status)
        return folder

    return write


@pytest.fixture
def holder() -> Iterator[Callable[[Path], subprocess.Popen[bytes]]]:
    """Start a process that holds a lock until it is killed."""
    started: list[subprocess.Popen[bytes]] = []
    code = (
        "import sys; from pathlib import Path; from mlflow_llm_plugins.deployments.local.life_lock import acquire\n"
        "lock = acquire(Path(sys.argv[1])); print('held', flush=True); input()"
    )

    def hold(path: Path) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.communicate(timeout=WAIT_S)
