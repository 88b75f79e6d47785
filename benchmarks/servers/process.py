"""Child processes that end with the block that started them, whatever happens in it, and how much memory they take."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from benchmarks.engine import child_environment
from benchmarks.log_model import resident

START_S = 300.0
STOP_S = 30.0
DESCENDANTS_STOP_S = 5.0
LOOK_EVERY_S = 0.1
SAMPLE_EVERY_S = 0.25
LOG_LINES = 30
EXCEPTION = re.compile(r"[\w.]*(Error|Exception): ")


class ServerError(Exception):
    """A contender that cannot be measured; the message is for its row."""


@dataclass(slots=True)
class Child:
    """A running process, and the file that has what it says."""

    process: subprocess.Popen[bytes]
    log: Path
    peak_bytes: int = 0  # resident, of all its processes together

    def last_lines(self) -> str:
        return "\n".join(self._text().splitlines()[-LOG_LINES:])

    def _text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def show_last_lines(self, why: str = "failed") -> None:
        """On standard error."""
        print(f"--- {self.log.stem} {why}; its last lines:\n{self.last_lines()}\n---", file=sys.stderr, flush=True)

    def check_alive(self) -> None:
        """Raise what its row says if it has ended."""
        if self.process.poll() is not None:
            raise ServerError(f"ended with exit status {self.process.returncode}: {cause(self._text())}")

    def wait(self, deadline_s: float) -> None:
        """Until it has ended well."""
        try:
            status = self.process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            raise ServerError(f"not finished after {deadline_s:.0f} s") from None
        if status:
            self.check_alive()


def cause(text: str) -> str:
    """The first exception of a log, which those after it follow from, else its last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next(filter(EXCEPTION.match, lines), lines[-1] if lines else "it said nothing")


@contextmanager
def running(command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> Iterator[Child]:
    """A command in a process group of its own, until the block ends; where that fails, its last lines are shown.

    Args:
        command: The program and its arguments.
        log: File that gets standard output and standard error.
        environment: Variables beside `server_environment`.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env={**server_environment(), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for us alone, and ends it through the block
        )
    child = Child(process, log)
    try:
        with sampled(child):
            yield child
    except Exception:
        child.show_last_lines()
        raise
    finally:
        end(process)


def server_environment() -> dict[str, str]:
    """This one's, with CPUs only and without network."""
    inherited = child_environment()
    # `mlflow models serve` starts uvicorn by name.
    path = os.pathsep.join(filter(None, [str(Path(sys.executable).parent), inherited.get("PATH", "")]))
    return {**inherited, "PATH": path, "CUDA_VISIBLE_DEVICES": "", "MLFLOW_DISABLE_TELEMETRY": "true"}


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask the process to end, and kill all that is left of its family: it after `STOP_S`, the rest soon after it."""
    descendants = _descendants(process.pid)
    try:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
        _, alive = psutil.wait_procs(descendants, timeout=DESCENDANTS_STOP_S)
        for survivor in alive:
            with suppress(psutil.NoSuchProcess):
                survivor.kill()
        psutil.wait_procs(alive, timeout=DESCENDANTS_STOP_S)
    finally:  # also where a second Ctrl-C ends the waiting
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


@contextmanager
def sampled(child: Child) -> Iterator[None]:
    """Keep the child's `peak_bytes` up to date."""
    done = threading.Event()

    def watch() -> None:
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(child.process.pid)
            while not done.wait(SAMPLE_EVERY_S):
                child.peak_bytes = max(child.peak_bytes, resident(root))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def wait_until_ready(child: Child, url: str, every_s: float = LOOK_EVERY_S) -> None:
    """Until a GET is answered with 200.

    Args:
        child: Ends the waiting where it has ended.
        url: Asked.
        every_s: Seconds between two looks.

    Raises:
        ServerError: The process ended, or `START_S` seconds passed.
    """
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        child.check_alive()
        with suppress(httpx.TransportError):
            if httpx.get(url, timeout=10, trust_env=False).status_code == httpx.codes.OK:
                return
        time.sleep(every_s)  # nothing tells a client when a port opens
    raise ServerError(f"no answer to {url} within {START_S:.0f} s")


def free_port() -> int:
    """A TCP port on the loopback interface that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
