"""The processes of one server: the command, what it starts, and what lost its parent meanwhile."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress

import psutil

from mlflow_llm_plugins.deployments.local.process_identity import family

MARK = "MLFLOW_LLM_SERVER"  # in the environment of all of them: whose an orphan is

_APP = "mlflow.pyfunc.scoring_server.app:app"  # what uvicorn runs, as an argument of its own
_WORKER = "--multiprocessing-fork"  # as Python's own helper, the resource tracker, has not
_PR_SET_CHILD_SUBREAPER = 36  # of linux/prctl.h


def adopt_orphans() -> None:
    """Become the parent of descendants whose parent ends, so that they are found; Linux only."""
    import ctypes

    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class ServerFamily:
    """Looks at the processes, and signals them."""

    def __init__(self, pid: int, mark: str) -> None:
        """Of a command that was just started.

        Args:
            pid: Of the command, whose end asyncio waits for: it is never reaped here.
            mark: Value of `MARK` in its environment.
        """
        self.root = psutil.Process(pid)
        self._mark = mark
        self._seen: list[psutil.Process] = []
        self._uvicorn: psutil.Process | None = None

    def running(self) -> list[psutil.Process]:
        """Those that run, the command first; orphans that have ended are reaped."""
        heads = [self.root, *self._seen, *self._orphans()]
        found = dict.fromkeys(process for head in heads for process in family(head))
        self._seen = [process for process in found if is_running(process)]
        for process in found:
            if process not in self._seen:
                self._reap(process)
        return list(self._seen)

    def uvicorn(self) -> psutil.Process | None:
        """The process that serves or whose workers do; None before it is there. Remembered when it has ended."""
        if self._uvicorn is None:
            candidates = [process for process in self.running() if _has_argument(process, _APP)]
            pids = {process.pid for process in candidates}
            self._uvicorn = next((process for process in candidates if _parent(process) not in pids), None)
        return self._uvicorn

    def workers(self) -> list[psutil.Process]:
        """Uvicorn's workers; none where it serves alone."""
        uvicorn = self.uvicorn()
        with suppress(psutil.Error, OSError):
            return [] if uvicorn is None else [child for child in uvicorn.children() if _has_argument(child, _WORKER)]
        return []

    def _orphans(self) -> list[psutil.Process]:
        with suppress(psutil.Error, OSError):
            children = [child for child in psutil.Process().children() if child != self.root]
            return [child for child in children if _of(child, self._has_mark)]
        return []

    def _has_mark(self, process: psutil.Process) -> bool:
        return process.environ().get(MARK) == self._mark

    def _reap(self, process: psutil.Process) -> None:
        with suppress(psutil.Error, OSError):
            if process != self.root and process.ppid() == os.getpid():
                os.waitpid(process.pid, os.WNOHANG)


def is_running(process: psutil.Process) -> bool:
    """Whether it has not ended; a zombie has. True where the system does not say, as without free descriptors."""
    try:
        return _of(process, lambda each: each.is_running() and each.status() != psutil.STATUS_ZOMBIE)
    except ProcessLookupError:
        return False
    except OSError:
        return True


def send(number: signal.Signals, processes: Iterable[psutil.Process]) -> None:
    """Signal those that still run."""
    for process in processes:
        with suppress(psutil.Error, OSError):
            process.send_signal(number)


def _has_argument(process: psutil.Process, argument: str) -> bool:
    with suppress(OSError):
        return _of(process, lambda each: argument in each.cmdline())
    return False


def _parent(process: psutil.Process) -> int | None:
    with suppress(psutil.Error, OSError):
        return process.ppid()
    return None


def _of(process: psutil.Process, holds: Callable[[psutil.Process], bool]) -> bool:
    """Whether it holds; of a process that ended meanwhile nothing does."""
    with suppress(psutil.Error):
        return holds(process)
    return False
