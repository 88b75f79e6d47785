"""A deployment of fake servers under a supervisor process of its own, for a test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from mlflow_llm_plugins.deployments.local.home import DeploymentFolder
from mlflow_llm_plugins.deployments.local.records import ModelSource, Spec, Status, read_record, write_record
from tests.deployments.local.fake_command import APP
from tests.e2e.serving import wait_for

ROOT = Path(__file__).parents[3]
WAIT_S = 20
PATIENCE = {"status_every_s": 0.1, "health_every_s": 0.1, "probe_s": 0.3, "unhealthy_s": 60, "polite_s": 0.2}
CONFIG = {"restart_backoff_s": 0.05, "drain_timeout_s": 1, "ready_timeout_s": WAIT_S}


class Supervised:
    """Its spec, its files, its process."""

    def __init__(self, path: Path, model: ModelSource) -> None:
        self.folder = DeploymentFolder(path / "state" / "chat")
        self.folder.path.mkdir(parents=True)
        self._path = path
        self.spec = Spec(
            name="chat",
            generation=0,
            token="t1",
            model=model,
            config={},
            created=0,
            updated=0,
        )
        self.process: subprocess.Popen[bytes] | None = None

    def control(self, server: str = "one") -> Path:
        """Where files tell this server what to do."""
        path = self._path / server
        path.mkdir(exist_ok=True)
        return path

    def tell(self, *flags: str, server: str = "one") -> None:
        for flag in flags:
            (self.control(server) / flag).touch()

    def untell(self, flag: str, server: str = "one") -> None:
        (self.control(server) / flag).unlink()

    def ask(self, server: str = "one", **config: Any) -> None:
        """Write the next spec, for a server of this name."""
        environment = {"FAKE_NAME": server, "FAKE_CONTROL": str(self.control(server))}
        changes = {"generation": self.spec.generation + 1, "config": {**CONFIG, "environment": environment, **config}}
        self.spec = self.spec.model_copy(update=changes)
        write_record(self.spec, self.folder.spec)

    def start(self, *options: str, token: str = "t1", **patience: float) -> None:
        """Start a supervisor."""
        module = "tests.deployments.local.supervise"
        arguments = [str(self.folder.path), token, json.dumps({**PATIENCE, **patience}), *options]
        with self.folder.supervisor_log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments], cwd=ROOT, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def begin(self, server: str = "one", **config: Any) -> None:
        """Ask, start, and wait until it serves."""
        self.ask(server, **config)
        self.start()
        self.wait_for_state("ready")

    def update(self, server: str = "two", **config: Any) -> None:
        """Ask for another one."""
        self.ask(server, **config)
        self.signal(signal.SIGHUP)

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return self.exit_status()

    def exit_status(self) -> int:
        assert self.process is not None
        return self.process.wait(timeout=WAIT_S)

    @property
    def status(self) -> Status:
        found = read_record(Status, self.folder.status)
        assert found is not None
        return found

    def wait_for_state(self, state: str) -> Status:
        wait_for(lambda: self.folder.status.exists() and self.status.state in (state, "failed"), WAIT_S)
        assert self.status.state == state, self.words()
        return self.status

    def wait_for_generation(self) -> Status:
        """Until what was asked last is served."""

        def serves() -> bool:
            serving = self.status.serving
            return serving is not None and serving.generation == self.spec.generation

        wait_for(serves, WAIT_S)
        return self.status

    def wait_for_refusal(self) -> str:
        wait_for(lambda: self.status.refused is not None, WAIT_S)
        assert self.status.refused is not None
        assert self.status.refused.generation == self.spec.generation
        return self.status.refused.error

    def words(self) -> str:
        """For the messages of failed tests."""
        files = [self.folder.status, self.folder.log, self.folder.supervisor_log]
        return "\n".join(file.read_text(errors="replace") for file in files if file.exists())

    def url(self, path: str = "/") -> str:
        return f"http://127.0.0.1:{self.status.port}{path}"

    def get(self, path: str = "/") -> str:
        """The name of the server that answers."""
        with httpx.Client(trust_env=False, timeout=WAIT_S) as client:
            response = client.get(self.url(path))
        assert response.status_code == 200, response.text
        return response.text

    @contextmanager
    def open_request(self) -> Iterator[Future[str]]:
        """One that the first server has begun to answer, which it was told to hold, and ends within the block."""
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(self.get, "/slow")
            wait_for((self.control() / "asked").exists, WAIT_S)
            yield answer

    def processes(self) -> list[psutil.Process]:
        """All below the supervisor, also when it is gone."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def server(self, name: str = "one") -> psutil.Process:
        """The process that serves."""
        return next(each for each in self.processes() if APP in each.cmdline() and self.name_of(each) == name)

    def command(self) -> psutil.Process:
        """The process around it."""
        return next(each for each in self.processes() if APP not in each.cmdline())

    def close(self) -> None:
        """End what a test has left, after which the supervisor may not have complained of anything in itself."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(timeout=WAIT_S)
        for process in self.processes():
            process.kill()
        said = self.folder.supervisor_log.read_text()
        assert not [word for word in ("Traceback", "never retrieved", "was destroyed", "Warning") if word in said], (
            said
        )

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            mine = str(self._path) in process.environ().get("FAKE_CONTROL", "")
            return mine and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    def name_of(self, process: psutil.Process) -> str:
        try:
            return process.environ()["FAKE_NAME"]
        except psutil.Error:
            return ""
