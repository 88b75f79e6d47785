"""Looks after a server that is ready, until it has to be replaced."""

from __future__ import annotations

import asyncio

from mlflow_llm_plugins.deployments.local.server.process import Health, Server
from mlflow_llm_plugins.deployments.local.supervision.patience import Patience
from mlflow_llm_plugins.deployments.local.supervision.status_file import StatusFile


class Watch:
    """Of one server; tells in the status whether it is healthy."""

    def __init__(self, server: Server, status: StatusFile, patience: Patience) -> None:
        """Nothing is asked yet."""
        self._server = server
        self._status = status
        self._patience = patience
        self._misses = 0  # in a row
        self._deaths = 0  # in a row
        self._unhealthy_since: float | None = None

    async def until_down(self) -> str:
        """Return when it has ended or can serve no more, with the reason."""
        ways = {asyncio.create_task(self._server.ended()), asyncio.create_task(self._until_sick())}
        try:
            done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for way in ways:
                way.cancel()

    async def _until_sick(self) -> str:
        while True:
            await asyncio.sleep(self._patience.health_every_s)
            self._count(await self._server.health(self._patience.probe_s))
            if self._deaths >= self._patience.deaths:
                return "its engine is dead"
            if self._unhealthy_for() >= self._patience.unhealthy_s:
                return f"it did not answer for more than {self._patience.unhealthy_s:g} s"
            self._tell()

    def _count(self, health: Health) -> None:
        self._misses = 0 if health == "well" else self._misses + 1
        self._deaths = self._deaths + 1 if health == "dead" else 0
        if self._misses < self._patience.misses:
            self._unhealthy_since = None
        elif self._unhealthy_since is None:
            self._unhealthy_since = asyncio.get_running_loop().time()

    def _unhealthy_for(self) -> float:
        since = self._unhealthy_since
        return 0.0 if since is None else asyncio.get_running_loop().time() - since

    def _tell(self) -> None:
        is_well = self._unhealthy_since is None
        self._status.change(
            state="ready" if is_well else "unhealthy",
            reason="" if is_well else f"{self._misses} health checks in a row failed",
            server=self._server.processes(),
        )
