"""Start a supervisor that outlives the command: a session of its own, without a terminal."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from mlflow_llm_plugins.deployments.local.home import DeploymentFolder

_SUPERVISOR = "mlflow_llm_plugins.deployments.local.supervision.supervisor"
_KILLED_S = 10.0


def launch_supervisor(folder: DeploymentFolder, token: str, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start it; it reports in `status.json`. Its own words, which are few, go to `supervisor.log`.

    Args:
        folder: Of the deployment, with a spec.
        token: Of that spec; the supervisor of another one ends itself.
        environ: Its environment, which its servers inherit.
    """
    descriptor = os.open(folder.supervisor_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", _SUPERVISOR, str(folder.path), token],
            env=dict(environ),
            cwd=folder.path,
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            start_new_session=True,
        )
    finally:
        os.close(descriptor)


def leave(launched: subprocess.Popen[bytes]) -> None:
    """Let it live on: without this, a process that stays would keep a zombie of it, or be warned of it."""
    threading.Thread(target=launched.wait, name="llm-supervisor-reaper", daemon=True).start()


def end(launched: subprocess.Popen[bytes], patience_s: float) -> None:
    """End it; harmless when it has ended."""
    launched.terminate()
    try:
        launched.wait(patience_s)
    except subprocess.TimeoutExpired:
        launched.kill()
        with suppress(subprocess.TimeoutExpired):  # it hangs in the system, which will end it
            launched.wait(_KILLED_S)


def server_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for supervisors, whose directory is another one: with this process's stores, and its paths."""
    import mlflow

    found = {
        **environ,
        "MLFLOW_TRACKING_URI": _absolute(mlflow.get_tracking_uri()),
        "MLFLOW_REGISTRY_URI": _absolute(mlflow.get_registry_uri()),
    }
    if path := environ.get("PYTHONPATH"):
        found["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, path.split(os.pathsep)))
    return found


def _absolute(uri: str) -> str:
    """A SQLite file or a directory that is named relative to here, as seen from anywhere."""
    prefix = "sqlite:///"
    if uri.startswith(prefix) and not uri.startswith(f"{prefix}/") and uri != f"{prefix}:memory:":
        return prefix + os.path.abspath(uri.removeprefix(prefix))
    if uri.startswith("file:") and not uri.startswith("file:/"):
        return Path(os.path.abspath(uri.removeprefix("file:"))).as_uri()
    return uri if ":" in uri or uri.startswith("databricks") else os.path.abspath(uri)
