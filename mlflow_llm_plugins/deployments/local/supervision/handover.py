"""From one generation of a deployment to the next."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from mlflow_llm_plugins.deployments.local.records import Refusal, Spec
from mlflow_llm_plugins.deployments.local.relay.door import AddressError, Door, Doors
from mlflow_llm_plugins.deployments.local.server.end import ServerFailedError
from mlflow_llm_plugins.deployments.local.server.process import Server
from mlflow_llm_plugins.deployments.local.supervision.keeper import DeploymentFailedError, Keeper
from mlflow_llm_plugins.deployments.local.supervision.patience import Patience
from mlflow_llm_plugins.deployments.local.supervision.starter import Starter
from mlflow_llm_plugins.deployments.local.supervision.status_file import StatusFile


class Handover:
    """Replaces servers, one update after the other."""

    def __init__(self, starter: Starter, doors: Doors, status: StatusFile, patience: Patience) -> None:
        """Nothing is replaced yet."""
        self._starter = starter
        self._doors = doors
        self._status = status
        self._patience = patience
        self._strategies: dict[str, Callable[[Keeper, Keeper], Awaitable[None]]] = {
            "blue_green": self._blue_green,
            "recreate": self._recreate,
        }
        self.retirement: asyncio.Task[None] | None = None  # of what the last update has replaced

    async def update(self, old: Keeper, spec: Spec) -> Keeper:
        """Serve another spec, or go on with the old one where that fails.

        Args:
            old: Goes on until the new server is ready, unless the spec says "recreate".
            spec: To be served.

        Returns:
            Who keeps what is served from now on.
        """
        if self.retirement is not None:
            await self.retirement
        door = old.door
        try:
            door = await self._door(old.door, spec)
            new = Keeper(spec, door, self._starter, self._status, self._patience)
            await self._strategies[spec.settings.strategy](old, new)
        except (ServerFailedError, AddressError) as error:
            if door is not old.door:
                await self._doors.close(door)
            self._status.change(phase="", starting=[], refused=Refusal(generation=spec.generation, error=str(error)))
            return old
        return new

    async def _blue_green(self, old: Keeper, new: Keeper) -> None:
        server = await self._starter.start(new.spec)
        await self._open(new.door, old.door, server)
        await old.end()
        self._begin(new, server, old)

    async def _recreate(self, old: Keeper, new: Keeper) -> None:
        """Where memory does not allow two. The old one is started again when the new one fails."""
        await old.end()
        relay, usual_s = old.door.relay, old.door.relay.wait_s
        relay.wait_s = max(usual_s, new.spec.settings.request_timeout_s)  # it is no failure: they may wait
        relay.switch(None)
        self._status.change(state="restarting", reason="an update replaces the server", server=[], ready_since=None)
        await self._retire(old, None)
        try:
            server = await self._starter.start(new.spec)
            await self._open(new.door, old.door, server)
        except (ServerFailedError, AddressError):
            self._status.change(reason="the update failed, and the version before it is started again")
            old.begin()
            raise
        finally:
            relay.wait_s = usual_s
        self._begin(new, server, old)

    def _begin(self, new: Keeper, server: Server, old: Keeper) -> None:
        self._status.change(refused=None)
        new.take(server)
        new.begin()
        self.retirement = asyncio.create_task(self._leave(old, new, server))

    async def _leave(self, old: Keeper, new: Keeper, server: Server) -> None:
        if old.door is not new.door:
            await old.door.shut()
        await self._retire(old, server)
        if old.door is not new.door:
            await self._doors.close(old.door)
        self._starter.forget_model(old.spec, new.spec)

    async def _retire(self, old: Keeper, successor: Server | None) -> None:
        """End the other servers: one, or two where the old one was just being started again."""
        for server in self._starter.running - {successor}:
            server.let_connections_go()
            await old.door.relay.emptied(server.upstream, self._patience.polite_s)
            await self._starter.stop(server, old.spec.settings.drain_timeout_s)

    async def _door(self, door: Door, spec: Spec) -> Door:
        """The one for the spec's address: the one there is, or another one, which is open where that can be.

        Raises:
            AddressError: Nobody can listen there.
        """
        host, port = spec.settings.host, spec.settings.port or door.port
        if (host, port) == (door.host, door.port):
            return door
        other = self._doors.add(host, port)
        try:
            await other.open()
        except AddressError as error:
            if not error.is_taken or port != door.port:  # else our own door is in the way, as 127.0.0.1 is of 0.0.0.0
                await self._doors.close(other)
                raise
        return other

    async def _open(self, door: Door, instead_of: Door, server: Server) -> None:
        """Open it now if it could not be opened beside the other one.

        Raises:
            AddressError: It still cannot; the server is stopped, and the other door open as before.
        """
        if door.is_open:
            return
        await instead_of.shut()
        try:
            await door.open()
        except AddressError:
            await self._starter.stop(server, 0)
            await _open_again(instead_of)
            raise


async def _open_again(door: Door) -> None:
    try:
        await door.open()
    except AddressError as error:
        raise DeploymentFailedError(f"the update failed, and meanwhile {error}") from error
