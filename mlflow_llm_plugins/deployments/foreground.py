"""`mlflow deployments run-local`: the same supervisor in the foreground, until Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from mlflow_llm_plugins.deployments.local.backend import LocalBackend
from mlflow_llm_plugins.deployments.local.home import DeploymentFolder, Home
from mlflow_llm_plugins.deployments.local.launch import server_environ
from mlflow_llm_plugins.deployments.local.records import Status
from mlflow_llm_plugins.deployments.local.supervision.supervisor import Supervisor
from mlflow_llm_plugins.deployments.local.view import View
from mlflow_llm_plugins.deployments.reporting import reported
from mlflow_llm_plugins.errors import DeploymentError


def run_local(name: str, model_uri: str, flavor: str | None = None, config: Mapping[str, Any] | None = None) -> None:
    """Serve a model in the foreground, with the server's log on standard error; Ctrl-C ends it.

    Args:
        name: Shown in messages; other commands do not know the deployment.
        model_uri: As `create_deployment` takes it.
        flavor: That the model must have.
        config: As `create_deployment` takes it.

    Raises:
        MlflowException: It cannot be served.
    """
    with reported(), tempfile.TemporaryDirectory(prefix="mlflow-llm-") as folder:
        _run(Path(folder), name, model_uri, flavor, config or {})


def _run(root: Path, name: str, model_uri: str, flavor: str | None, config: Mapping[str, Any]) -> None:
    backend = LocalBackend(Home(root), os.environ)
    folder, spec = backend.prepare(name, model_uri, flavor, config)
    told = _Announcer(folder)
    supervisor = Supervisor(
        folder, spec.token, environ=server_environ(os.environ), echo=sys.stderr.buffer, told=told.status
    )
    if asyncio.run(supervisor.run()):
        raise DeploymentError(f"{name!r} {told.last.state}: {told.last.reason}" if told.last else f"{name!r} failed.")


class _Announcer:
    """Says on standard error what happens, among the server's own words."""

    def __init__(self, folder: DeploymentFolder) -> None:
        self._folder = folder
        self.last: Status | None = None

    def status(self, status: Status) -> None:
        before, self.last = self.last, status
        if before is not None and (before.state, before.reason) == (status.state, status.reason):
            return
        url = View(self._folder, None, status, is_supervised=True, is_being_changed=False).url
        words = f"answers at {url}. Ctrl-C ends it." if status.state == "ready" else f"{status.state} {status.reason}"
        if status.state == "ready" and self._folder.api_key.exists():
            words += f" Its API key is in {self._folder.api_key}."
        click.echo(f"{self._folder.name} {words.strip()}", err=True)
