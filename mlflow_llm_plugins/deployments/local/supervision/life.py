"""The life of a deployment, from its first server on: updates follow one another until it is stopped or has failed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mlflow_llm_plugins.deployments.local.records import Spec
from mlflow_llm_plugins.deployments.local.relay.door import AddressError, Door, Doors
from mlflow_llm_plugins.deployments.local.server.end import ServerFailedError
from mlflow_llm_plugins.deployments.local.supervision.handover import Handover
from mlflow_llm_plugins.deployments.local.supervision.keeper import DeploymentFailedError, Keeper
from mlflow_llm_plugins.deployments.local.supervision.patience import Patience
from mlflow_llm_plugins.deployments.local.supervision.starter import Starter
from mlflow_llm_plugins.deployments.local.supervision.status_file import StatusFile


class Life:
    """Lived once; whoever cancels it closes it."""

    def __init__(
        self, starter: Starter, status: StatusFile, patience: Patience, read_spec: Callable[[], Spec | None]
    ) -> None:
        """Nothing is opened or started yet.

        Args:
            starter: Of its servers.
            status: Told of all that happens.
            patience: How long to wait for what.
            read_spec: What is asked now; None: nothing that could be served.
        """
        self.changed = asyncio.Event()  # set it when the spec may have changed
        self._starter = starter
        self._status = status
        self._patience = patience
        self._read_spec = read_spec
        self._doors = Doors(patience.connection_s)
        self._handover = Handover(starter, self._doors, status, patience)
        self._generation = 0  # the newest that was tried

    async def live(self, spec: Spec) -> None:
        """Serve the spec, and those after it.

        Raises:
            DeploymentFailedError: It cannot be started, or crashed too often. That is the only way to return.
        """
        self._generation = spec.generation
        keeper = Keeper(spec, await self._open_door(spec), self._starter, self._status, self._patience)
        try:
            keeper.take(await self._starter.start(spec))
        except ServerFailedError as error:  # what has never served is not tried again
            raise DeploymentFailedError(error.reason, str(error)) from error
        keeper.begin()
        try:
            while True:
                await self._next_event(keeper)
                if (changed := self._changed_spec()) is not None:
                    keeper = await self._handover.update(keeper, changed)
        finally:
            await keeper.end()

    async def close(self) -> None:
        """Let nobody in, stop all servers, send everybody away."""
        if self._handover.retirement is not None:
            self._handover.retirement.cancel()
            await asyncio.gather(self._handover.retirement, return_exceptions=True)
        try:
            await self._doors.shut_all()
            await self._starter.stop_all()
        finally:
            await self._doors.close_all()

    async def _open_door(self, spec: Spec) -> Door:
        """Before any load. A port that nobody asked for is kept for the deployment's life, if it can be."""
        host, asked, kept = spec.settings.host, spec.settings.port, self._status.status.port
        try:
            door = await self._first_open(host, [asked] if asked is not None or kept is None else [kept, None])
        except AddressError as error:
            raise DeploymentFailedError(str(error)) from error
        self._status.change(port=door.port)
        return door

    async def _first_open(self, host: str, ports: list[int | None]) -> Door:
        *earlier, last = ports
        for port in earlier:
            door = self._doors.add(host, port)
            try:
                await door.open()
            except AddressError:
                await self._doors.close(door)
            else:
                return door
        door = self._doors.add(host, last)
        await door.open()
        return door

    async def _next_event(self, keeper: Keeper) -> None:
        """Wait for a change, or for a task that fails."""
        changed = asyncio.create_task(self.changed.wait())
        tasks = {task for task in (keeper.work, self._handover.retirement) if task is not None and not _is_well(task)}
        try:
            done, _ = await asyncio.wait({changed, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
        if changed not in done:  # else the new version may still help
            for task in done:
                task.result()

    def _changed_spec(self) -> Spec | None:
        if not self.changed.is_set():
            return None
        self.changed.clear()
        spec = self._read_spec()
        if spec is None or spec.generation <= self._generation:
            return None
        self._generation = spec.generation
        return spec


def _is_well(task: asyncio.Task[None]) -> bool:
    """Whether it has ended as it should; what has failed must be looked at, however long ago that was."""
    return task.done() and not task.cancelled() and task.exception() is None
