"""A state directory of its own for each module, models to deploy, and the proof that nothing is left."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest
from mlflow.deployments import BaseDeploymentClient, get_deploy_client

from mlflow_llm_plugins import quantized_llm
from mlflow_llm_plugins.deployments.local.home import HOME
from tests.e2e.serving import wait_for

COMMAND_S = 180
NEW_TOKENS = 8


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The state directory that every client and command of the module uses; empty in the end."""
    root = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(HOME, str(root))
        yield root
        client = get_deploy_client("local")
        left = [deployment["name"] for deployment in client.list_deployments()]
        for name in left:
            client.delete_deployment(name)
    assert left == [], "tests left deployments"
    assert list((root / "deployments").glob("*")) == []
    wait_for(lambda: not processes_with(str(root)))


def processes_with(text: str) -> list[psutil.Process]:
    """Those with this text among their arguments."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(text in argument for argument in process.info["cmdline"] or ()):
            found.append(process)
    return found


@pytest.fixture(scope="module")
def client(home: Path) -> BaseDeploymentClient:
    """Of the target local."""
    found = get_deploy_client("local")
    assert found is not None
    return found


@pytest.fixture
def deployed(client: BaseDeploymentClient) -> Iterator[Callable[..., dict[str, Any]]]:
    """Create deployments that are deleted after the test."""
    names: list[str] = []

    def create(name: str, model_uri: Path | str, **config: Any) -> dict[str, Any]:
        names.append(name)
        return client.create_deployment(name, str(model_uri), config=config)

    yield create
    for name in names:
        client.delete_deployment(name)


@pytest.fixture(scope="session")
def trivial(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Save a model of MLflow's own flavor that answers with a word and the pid of its server."""
    saved: dict[str, Path] = {}

    def save(word: str) -> Path:
        if word not in saved:
            folder = tmp_path_factory.mktemp("trivial")
            code = folder / "trivial_model.py"
            code.write_text(_TRIVIAL.format(word=word), encoding="utf-8")
            path = folder / "model"
            mlflow.pyfunc.save_model(path, python_model=str(code), pip_requirements=["mlflow"])
            saved[word] = path
        return saved[word]

    return save


_TRIVIAL = """
import os
import time

import mlflow


class Trivial(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        if {word!r} == "broken":
            raise ValueError("these weights are broken")
        if {word!r} == "slow":
            time.sleep(6)

    def predict(self, context, model_input, params=None):
        rows = model_input["data"].tolist() if hasattr(model_input, "columns") else list(model_input)
        if "sleep" in rows:
            open(os.environ["ASKED"], "w").close()
            time.sleep(60)
        return [[{word!r}, os.getpid(), row] for row in rows]


mlflow.models.set_model(Trivial())
"""


@pytest.fixture(scope="session")
def chat_model(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quantized LLM, tiny."""
    path = tmp_path_factory.mktemp("chat") / "model"
    config = {"max_new_tokens": NEW_TOKENS}
    quantized_llm.save_model(str(tiny_llama), str(path), engine_config=config, bundle_plugin=False)
    return path


def mlflow_command(*arguments: str, status: int = 0) -> str:
    """What a `mlflow` command says, on both of its outputs."""
    done = subprocess.run(
        [sys.executable, "-m", "mlflow", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=COMMAND_S,
        check=False,
    )
    assert done.returncode == status, done.stdout
    return done.stdout
