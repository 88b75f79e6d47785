"""Fixtures that every test may use, and the rules for all: no network, no telemetry, no process left behind."""

from __future__ import annotations

import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

# Before anything imports mlflow or huggingface_hub, which read these when they are imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MLFLOW_MODEL_CATALOG_URI"] = ""  # judges download a catalog of models otherwise
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["DO_NOT_TRACK"] = "true"
# `mlflow models serve` starts `uvicorn` by name: found also where this environment is not activated.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
# Before torch: threads that wait by spinning make a shared machine three times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import hypothesis
import psutil
import pytest

# The first example of a new checkout waits for hypothesis' own table of characters, and any for a busy machine.
hypothesis.settings.register_profile("tests", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("tests")

TINY_LLAMA_STEPS = 60
SECONDS_TO_EXIT = 5.0  # what a process may take after the last test closed it
SESSION_MARK = "MLFLOW_LLM_TEST_SESSION"


@pytest.fixture(scope="session", autouse=True)
def no_process_left_behind() -> Iterator[None]:
    """Fail the session when a test leaves a process running, also one whose parent is gone."""
    mark = os.environ[SESSION_MARK] = str(uuid.uuid4())  # inherited by all that tests start
    yield
    started = [process for process in psutil.process_iter() if _is_left_over(process, mark)]
    _, running = psutil.wait_procs(started, SECONDS_TO_EXIT)
    if running:
        pytest.fail("tests left processes running: " + "; ".join(_describe(process) for process in running))


@pytest.fixture(scope="session", autouse=True)
def no_store_of_the_working_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what a test logs without `tracking` out of ./mlflow.db, which another version of MLflow may have made."""
    store = f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", store)
        yield


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint directory of a Llama trained for seconds: weak, but far from random. Read only."""
    from tiny_llm import train_tiny_llm

    path = tmp_path_factory.mktemp("tiny_llama")
    train_tiny_llm(path, steps=TINY_LLAMA_STEPS, progress=False)
    return path


@pytest.fixture(scope="session")
def held_out() -> list[str]:
    """Real English text that `tiny_llama` was not trained on, one string a topic."""
    from tiny_llm import held_out_texts

    return held_out_texts()


@pytest.fixture
def tracking(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URI of a fresh SQLite tracking store and registry, set for this process and its children.

    The active experiment keeps its artifacts under `tmp_path / "artifacts"`.
    """
    import mlflow

    database = Path(shutil.copy(empty_database, tmp_path / "mlflow.db"))
    uri = f"sqlite:///{database}"
    for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.setenv(variable, "")  # so that what mlflow exports below is undone
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    experiment = mlflow.MlflowClient().create_experiment("tests", (tmp_path / "artifacts").as_uri())
    mlflow.set_experiment(experiment_id=experiment)
    yield uri
    while mlflow.active_run():
        mlflow.end_run()
    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite store to copy: migrating takes seconds, copying none."""
    import mlflow

    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    mlflow.MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


def _is_left_over(process: psutil.Process, mark: str) -> bool:
    """Whether a test started it; a fork does not show the mark, and an orphan no longer descends from us."""
    ours = psutil.Process()
    try:
        started_here = process.environ().get(SESSION_MARK) == mark or ours in process.parents()
        return started_here and process != ours and not _is_resource_tracker(process)
    except psutil.Error:  # another user's, or ended meanwhile
        return False


def _is_resource_tracker(process: psutil.Process) -> bool:
    """Python's own helper, which lives as long as the interpreter that used multiprocessing."""
    return any("multiprocessing.resource_tracker" in argument for argument in process.cmdline())


def _describe(process: psutil.Process) -> str:
    try:
        return f"{process.pid} {' '.join(process.cmdline())}"
    except psutil.NoSuchProcess:
        return f"{process.pid} (ended)"
