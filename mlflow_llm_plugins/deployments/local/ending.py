"""End a deployment: its supervisor, which ends the server, and what may be left of both."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import suppress

import psutil

from mlflow_llm_plugins.deployments.local.life_lock import holder, is_held
from mlflow_llm_plugins.deployments.local.process_identity import ProcessIdentity, family
from mlflow_llm_plugins.deployments.local.view import View
from mlflow_llm_plugins.errors import DeploymentError

_LOOK_EVERY_S = 0.05
_WRITES_ITS_NAME_S = 10.0  # a supervisor that has just begun
_MORE_S = 20.0  # than the drain, for its last steps
_KILLED_S = 10.0


def end_deployment(view: View) -> None:
    """Return when nothing of it runs any more; harmless when nothing did.

    Raises:
        DeploymentError: Its supervisor cannot be ended from here.
    """
    supervisor = _supervisor_of(view) if view.is_supervised else None
    if supervisor is not None:
        drain_s = view.serving.settings.drain_timeout_s if view.serving is not None else 0.0
        processes = _all_of(supervisor)
        _end_supervisor(view, supervisor, drain_s + _MORE_S)
        _kill([process for process in processes if process.is_running()])
        view = View.of(view.folder) or view
    if view.status is not None:
        left = [*view.status.server, *view.status.starting]
        _kill([process for one in left if (process := one.process()) is not None])


def _supervisor_of(view: View) -> ProcessIdentity | None:
    """Who holds the lock; it may need a moment to say so. None: it has ended meanwhile."""
    lock = view.folder.life_lock

    def is_told() -> bool:
        found = holder(lock)
        return not is_held(lock) or (found is not None and found.is_alive)

    _wait(is_told, _WRITES_ITS_NAME_S)
    found = holder(lock)
    if not is_held(lock):
        return found
    if found is None or not found.is_alive:
        raise DeploymentError(
            f"Deployment {view.folder.name!r} is run by a process that cannot be seen from here, perhaps in another "
            "container. Delete it there."
        )
    return found


def _end_supervisor(view: View, supervisor: ProcessIdentity, patience_s: float) -> None:
    lock = view.folder.life_lock
    for number, seconds in ((signal.SIGTERM, patience_s), (signal.SIGKILL, _KILLED_S)):
        process = supervisor.process()
        if process is not None:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        if _wait(lambda: not is_held(lock), seconds):
            return
    raise DeploymentError(f"The supervisor of deployment {view.folder.name!r} (pid {supervisor.pid}) does not end.")


def _all_of(supervisor: ProcessIdentity) -> list[psutil.Process]:
    process = supervisor.process()
    return [] if process is None else family(process)


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=_KILLED_S)


def _wait(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether it came to hold in time; nothing tells when another process frees a lock or writes a file."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_EVERY_S)
    return True
