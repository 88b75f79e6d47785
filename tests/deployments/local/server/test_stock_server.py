"""The supervisor as it is, with MLflow's own `models serve` of a small model of another flavor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import httpx
import mlflow
import psutil
import pytest

from mlflow_llm_plugins.deployments.local.home import DeploymentFolder
from mlflow_llm_plugins.deployments.local.records import ModelSource, Status, read_record, write_record
from mlflow_llm_plugins.deployments.local.server.family import is_running
from mlflow_llm_plugins.deployments.local.specs import first_spec
from tests.e2e.serving import wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes as Linux has them"),
]

READY_S = 120
STOP_S = 30


class Doubler(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [2 * value for value in model_input["x"]]


class Deployment:
    """Of the doubler."""

    def __init__(self, path, workers):
        mlflow.pyfunc.save_model(str(path / "model"), python_model=Doubler(), pip_requirements=[])
        source = ModelSource(uri="m", resolved="m", path=path / "model", flavor="python_function", is_ours=False)
        self.folder = DeploymentFolder(path / "chat")
        self.folder.path.mkdir()
        config = {"workers": workers, "restart_backoff_s": 0.1, "drain_timeout_s": 5, "ready_timeout_s": READY_S}
        spec = first_spec("chat", config).model_copy(update={"model": source})
        write_record(spec, self.folder.spec)
        module = "mlflow_llm_plugins.deployments.local.supervision.supervisor"
        self.process = subprocess.Popen([sys.executable, "-m", module, str(self.folder.path), spec.token])
        self.seen: set[psutil.Process] = set()

    @property
    def status(self):
        return read_record(Status, self.folder.status)

    def wait_until_ready(self, restarts=0):
        def is_ready():
            status = self.status
            assert status is None or status.state != "failed", status
            return status is not None and status.state == "ready" and status.restarts == restarts

        wait_for(is_ready, READY_S)
        self.seen |= {process for one in self.status.server if (process := one.process()) is not None}

    def predict(self):
        url = f"http://127.0.0.1:{self.status.port}/invocations"
        payload = {"dataframe_split": {"columns": ["x"], "data": [[1], [2]]}}
        return httpx.post(url, json=payload, timeout=READY_S, trust_env=False).json()

    def uvicorn(self):
        def lines():
            return [(one.process(), one.process().cmdline()) for one in self.status.server if one.is_alive]

        return next(process for process, line in lines() if "mlflow.pyfunc.scoring_server.app:app" in line)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(STOP_S)
        for process in self.seen:
            if process.is_running():
                process.kill()


@pytest.fixture(params=[1, 2], ids=["1 worker", "2 workers"])
def deployment(request, tmp_path):
    made = Deployment(tmp_path, request.param)
    yield made
    made.close()


def test_it_serves_comes_back_after_a_kill_and_stops_with_all_its_processes(deployment):
    deployment.wait_until_ready()
    assert deployment.predict() == {"predictions": [2, 4]}

    deployment.uvicorn().kill()
    deployment.wait_until_ready(restarts=1)
    assert deployment.status.last_error.startswith("killed by SIGKILL")
    assert deployment.predict() == {"predictions": [2, 4]}

    deployment.process.send_signal(signal.SIGTERM)
    assert deployment.process.wait(STOP_S) == 0
    assert deployment.status.state == "stopped"
    assert [process for process in deployment.seen if is_running(process)] == []  # zombies are init's


def test_it_does_not_outlive_its_supervisor(deployment):
    deployment.wait_until_ready()
    os.kill(deployment.process.pid, signal.SIGKILL)
    wait_for(lambda: not any(process.is_running() for process in deployment.seen), STOP_S)
