"""A command waits for what a supervisor is doing, and shows it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from mlflow_llm_plugins.deployments.local.claims import deleted
from mlflow_llm_plugins.deployments.local.home import DeploymentFolder
from mlflow_llm_plugins.deployments.local.records import Spec, Status
from mlflow_llm_plugins.deployments.local.view import View
from mlflow_llm_plugins.errors import DeploymentError

_LOOK_EVERY_S = 0.1
_MORE_S = 60.0  # than the server may take: the supervisor says first that the time is over
_LAST_BYTES = 4000


class RefusedError(DeploymentError):
    """The supervisor could not bring the new version up, and goes on with the old one."""


def wait_until_serving(folder: DeploymentFolder, spec: Spec, launched: subprocess.Popen[bytes] | None) -> None:
    """Return when the spec is served.

    Args:
        folder: Of the deployment.
        spec: That a supervisor shall serve.
        launched: That supervisor, where this process started it.

    Raises:
        RefusedError: The version before it is still served.
        DeploymentError: It is not served, with the reason and the end of the server's log.
    """
    patience_s = spec.settings.ready_timeout_s + spec.settings.drain_timeout_s + _MORE_S
    deadline = time.monotonic() + patience_s
    before: Status | None = None
    with _display(spec.name) as show:
        while time.monotonic() < deadline:
            has_ended = launched is not None and launched.poll() is not None  # before its last words are read
            view = View.of(folder)
            if view is None or view.spec is None or view.spec.token != spec.token:
                raise deleted(spec.name)
            status = view.status if view.status is not None and view.status.token == spec.token else None
            if status is not None and _is_served(status, spec):
                return
            if has_ended or (launched is None and not view.is_supervised):
                raise DeploymentError(
                    f"Deployment {spec.name!r}: its supervisor ended.\n{_last_words(folder)}".strip()
                )
            if status != before:  # it goes on with something, if only with what came before this spec
                before, deadline = status, time.monotonic() + patience_s
            show(status.phase if status is not None else "")
            time.sleep(_LOOK_EVERY_S)  # nothing tells when another process writes a file
    raise DeploymentError(f"Deployment {spec.name!r} is not ready, and its supervisor does not say why.")


def _is_served(status: Status, spec: Spec) -> bool:
    if status.refused is not None and status.refused.generation == spec.generation:
        raise RefusedError(f"The new version of deployment {spec.name!r} is refused: {status.refused.error}")
    if status.state in ("failed", "stopped"):
        said = "\n".join(filter(None, [status.reason, status.last_error]))
        raise DeploymentError(f"Deployment {spec.name!r} {status.state}: {said}")
    return status.state == "ready" and status.serving is not None and status.serving.generation >= spec.generation


def _last_words(folder: DeploymentFolder) -> str:
    try:
        return folder.supervisor_log.read_bytes()[-_LAST_BYTES:].decode(errors="replace").strip()
    except OSError:
        return ""


@contextmanager
def _display(name: str) -> Iterator[Callable[[str], None]]:
    """A line with what is waited for and for how long, on terminals only."""
    with tqdm(bar_format="{desc} ({elapsed})", leave=False, disable=None) as bar:

        def show(phase: str) -> None:
            bar.set_description_str(f"{name}: {phase or 'starting the supervisor'}")

        yield show
