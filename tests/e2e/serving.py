"""A stock `mlflow models serve` process for a test, and its end."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import httpx
import psutil

T = TypeVar("T")

START_S = 120
WAIT_S = 60
STOP_S = 30


def free_port() -> int:
    """A TCP port on the loopback interface that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def served(command: list[str], port: int, log: Path) -> Iterator[httpx.Client]:
    """Run a serve command until the block ends; the client is for its address.

    Raises:
        AssertionError: It did not answer `/ping` in time, with the log; or left a process behind.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    family = [psutil.Process(process.pid)]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            _wait_for_ping(client, process, log)
            family += family[0].children(recursive=True)
            yield client
    finally:
        process.terminate()
        _, alive = psutil.wait_procs(family, timeout=STOP_S)
        for survivor in alive:
            survivor.kill()
        assert not alive, f"still running {STOP_S} s after SIGTERM: {alive}"


def serve_command(model_uri: str, port: int, *options: str) -> list[str]:
    """Stock `mlflow models serve` on the loopback interface, in this environment."""
    address = ["-h", "127.0.0.1", "-p", str(port)]
    return [
        sys.executable,
        "-m",
        "mlflow",
        "models",
        "serve",
        "-m",
        model_uri,
        "--env-manager",
        "local",
        *address,
        *options,
    ]


def _wait_for_ping(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if client.get("/ping").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)  # nothing tells a client when a port opens
    raise AssertionError(
        f"no answer to /ping (exit status {process.poll()}):\n{log.read_text(errors='replace')[-4000:]}"
    )


def wait_for(condition: Callable[[], T], seconds: float = WAIT_S) -> T:
    """What the condition gives once that is true; nothing would tell us when."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return found


def uvicorn_of(command: list[str]) -> psutil.Process:
    """The uvicorn process behind a command of ours, however many processes are between."""
    port = command[command.index("-p") + 1]
    mark = f"--port {port} "
    return next(each for each in psutil.process_iter() if _is_uvicorn(each, mark))


def _is_uvicorn(process: psutil.Process, mark: str) -> bool:
    try:
        return "uvicorn" in process.name() and mark in " ".join(process.cmdline()) + " "
    except psutil.Error:
        return False


def ready(client: httpx.Client) -> bool:
    """Whether the server takes requests."""
    try:
        return client.get("/ready").status_code == 200
    except httpx.TransportError:
        return False


def metric(client: httpx.Client, name: str) -> float:
    """The sum of one of the server's metrics over its labels."""
    lines = re.findall(rf"^mlflow_llm_{name}(?:{{[^}}]*}})? (\S+)$", client.get("/metrics").text, re.M)
    assert lines, f"no metric {name}"
    return sum(map(float, lines))
