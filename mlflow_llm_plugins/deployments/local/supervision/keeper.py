"""Keeps the server of one spec running: behind its door while it is ready, started again when it is not."""

from __future__ import annotations

import asyncio
import time

from mlflow_llm_plugins.deployments.local.records import Spec
from mlflow_llm_plugins.deployments.local.relay.door import Door
from mlflow_llm_plugins.deployments.local.server.end import ServerFailedError
from mlflow_llm_plugins.deployments.local.server.process import Server
from mlflow_llm_plugins.deployments.local.supervision.crash_row import CrashRow
from mlflow_llm_plugins.deployments.local.supervision.patience import Patience
from mlflow_llm_plugins.deployments.local.supervision.starter import Starter
from mlflow_llm_plugins.deployments.local.supervision.status_file import StatusFile
from mlflow_llm_plugins.deployments.local.supervision.watch import Watch
from mlflow_llm_plugins.errors import DeploymentError


class DeploymentFailedError(DeploymentError):
    """A deployment that nobody but its user can help."""

    def __init__(self, reason: str, last_error: str = "") -> None:
        """With a line for the reason, and all that is known of the error behind it."""
        super().__init__(reason)
        self.last_error = last_error


class Keeper:
    """Of one spec."""

    def __init__(self, spec: Spec, door: Door, starter: Starter, status: StatusFile, patience: Patience) -> None:
        """Without a server, and not at work."""
        self.spec = spec
        self.door = door
        self._starter = starter
        self._status = status
        self._patience = patience
        self._crashes = CrashRow(spec.settings, patience)
        self._server: Server | None = None
        self.work: asyncio.Task[None] | None = None  # ends only with `DeploymentFailedError`

    def take(self, server: Server) -> None:
        """Let clients reach a server that is ready."""
        self._server = server
        self._crashes.note_ready()
        self.door.relay.switch(server.upstream)
        self._status.change(
            state="ready",
            reason="",
            phase="",
            port=self.door.port,
            serving=self.spec,
            last_ready=self.spec,
            server=server.processes(),
            starting=[],
            ready_since=time.time(),
        )

    def begin(self) -> None:
        """Go to work. Without a server one is started first."""
        self.work = asyncio.create_task(self._keep())

    async def end(self) -> None:
        """Work no more; the server, or one that was being started, is left to others."""
        self._server = None
        if self.work is not None:
            self.work.cancel()
            await asyncio.gather(self.work, return_exceptions=True)

    async def _keep(self) -> None:
        while True:
            if self._server is None:
                await self._start_again()
            else:
                await self._bury(self._server, await Watch(self._server, self._status, self._patience).until_down())

    async def _bury(self, server: Server, reason: str) -> None:
        """New connections wait from here on."""
        self._server = None
        self.door.relay.switch(None)
        self._status.change(state="restarting", reason=reason, server=[], ready_since=None)
        await self._starter.stop(server, 0)
        await self._back_off(reason, f"{reason}\nThe end of its log:\n{server.tail()}")

    async def _start_again(self) -> None:
        self._status.change(restarts=self._status.status.restarts + 1)
        try:
            self.take(await self._starter.start(self.spec))
        except ServerFailedError as error:
            await self._back_off(error.reason, str(error))

    async def _back_off(self, reason: str, error: str) -> None:
        self._crashes.add()
        self._status.change(reason=reason, phase="", last_error=error)
        if self._crashes.is_too_long:
            allowed = f"max_restarts={self.spec.settings.max_restarts}"
            raise DeploymentFailedError(f"crashed with no restart left ({allowed}): {reason}", error)
        self._status.change(phase=f"waiting {self._crashes.backoff_s:g} s to start it again")
        await asyncio.sleep(self._crashes.backoff_s)
