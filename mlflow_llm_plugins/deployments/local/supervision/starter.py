"""Starts servers, and knows all that may still run."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from typing import BinaryIO

from mlflow_llm_plugins.deployments.local.home import DeploymentFolder
from mlflow_llm_plugins.deployments.local.records import Spec
from mlflow_llm_plugins.deployments.local.server.command import CommandOf, serve_environment
from mlflow_llm_plugins.deployments.local.server.end import ServerFailedError
from mlflow_llm_plugins.deployments.local.server.log import ServerLog
from mlflow_llm_plugins.deployments.local.server.process import Server
from mlflow_llm_plugins.deployments.local.supervision.status_file import StatusFile

_PORTS_TRIED = 3
_LOOK_EVERY_S = 2.0


class Starter:
    """Makes a ready server of a spec; what it is waiting for is told in the status."""

    def __init__(
        self,
        folder: DeploymentFolder,
        status: StatusFile,
        command_of: CommandOf,
        environ: Mapping[str, str],
        echo: BinaryIO | None,
    ) -> None:
        """Nothing is started yet.

        Args:
            folder: Of the deployment, with the log.
            status: Gets the phases of a start.
            command_of: The command for a spec and a port.
            environ: What servers inherit.
            echo: Gets what servers say, beside the log.
        """
        self.running: set[Server] = set()
        self._folder = folder
        self._status = status
        self._command_of = command_of
        self._environ = environ
        self._echo = echo
        self._next_look = 0.0

    async def start(self, spec: Spec) -> Server:
        """A server that takes requests, told as `starting`. Cancelled, it leaves what it has begun among `running`.

        Raises:
            ServerFailedError: It did not become ready; nothing of it runs.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + spec.settings.ready_timeout_s
        for _ in range(_PORTS_TRIED - 1):
            try:
                return await self._start(spec, deadline - clock())
            except ServerFailedError as error:
                if not error.is_port_taken:
                    raise
        return await self._start(spec, deadline - clock())

    async def stop(self, server: Server, drain_s: float) -> None:
        """End one of them, and forget it."""
        await server.stop(drain_s)
        self.running.discard(server)

    def forget_model(self, old: Spec, new: Spec) -> None:
        """Remove what was downloaded for a spec that nobody serves any more."""
        if old.model is not None and new.model is not None and old.model.path != new.model.path:
            self._folder.remove_download(old.model.path)

    async def stop_all(self) -> None:
        """End all, at once; each gets the drain of its own spec."""
        stops = [self.stop(server, server.spec.settings.drain_timeout_s) for server in self.running]
        await asyncio.gather(*stops)

    async def _start(self, spec: Spec, timeout_s: float) -> Server:
        try:
            port = _free_port()
        except OSError as error:
            raise ServerFailedError(f"no port is free: {error.strerror}", "") from error
        server = Server(spec, port, ServerLog(self._folder.log, echo=self._echo))
        self.running.add(server)
        try:
            await server.start(self._command_of(spec, port), serve_environment(spec, self._folder, self._environ))
            await server.wait_until_ready(timeout_s, lambda phase: self._tell(phase, server))
        except ServerFailedError:
            await self.stop(server, 0)
            self._status.change(starting=[])
            raise
        return server

    def _tell(self, phase: str, server: Server) -> None:
        """Also who must be ended where this process is killed meanwhile, which takes a look at all that run."""
        now = asyncio.get_running_loop().time()
        if phase != self._status.status.phase or now >= self._next_look:
            self._next_look = now + _LOOK_EVERY_S
            self._status.change(phase=phase, starting=server.processes())


def _free_port() -> int:
    """A port of the loopback interface that nothing listens on, at least not now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
