"""The public port of a deployment: bytes go to the server of the moment, and wait while there is none.

Runs in the supervisor's event loop and reads no HTTP. A connection keeps its server for its life; a switch is for the
ones that come after it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from dataclasses import dataclass

from mlflow_llm_plugins.deployments.local.relay.connection import RelayedConnection
from mlflow_llm_plugins.deployments.local.relay.listener import Listener, bound, raise_descriptor_limit

_logger = logging.getLogger(__name__)

_RETRY_S = 0.1  # nothing tells when a port opens
_ERROR = {
    "message": "The server is being started or restarted. Try again later.",
    "type": "server_error",
    "param": None,
    "code": "server_unavailable",
}
_BODY = json.dumps({"error": _ERROR})
_UNAVAILABLE = (
    "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
    f"Content-Length: {len(_BODY)}\r\nRetry-After: 1\r\nConnection: close\r\n\r\n{_BODY}"
).encode()


@dataclass(frozen=True, eq=False, slots=True)
class Upstream:
    """Where one server listens; another one at the same address is not equal to it."""

    host: str
    port: int


class Relay:
    """Listens for clients and connects each to a server. All of it belongs to one event loop and its thread.

    A client gets its server with its first byte, as in HTTP the client speaks first. So one that has connected but not
    asked yet does not hold an old server.
    """

    def __init__(self, wait_s: float) -> None:
        """Without an upstream.

        Args:
            wait_s: Seconds that a client waits for a server before it is answered with status 503.
        """
        self.wait_s = wait_s
        self._upstream: Upstream | None = None
        self._switched = _Signal()
        self._left = _Signal()  # a connection has left its upstream
        self._listeners: list[Listener] = []
        self._tasks: set[asyncio.Task[None]] = set()  # one a connection
        self._upstreams: dict[RelayedConnection, Upstream] = {}

    async def listen(self, host: str, port: int | None) -> int:
        """Take clients on all addresses of the host, beside those listened on already; returns the port.

        Args:
            host: IPv4 or IPv6 address, or a name.
            port: None: one that is free.

        Raises:
            OSError: As the system says it: the port is taken, or the host is not here.
        """
        raise_descriptor_limit()
        sockets = await bound(host, port)
        self._listeners += [Listener(listening, self._begin) for listening in sockets]
        return int(sockets[0].getsockname()[1])

    def switch(self, upstream: Upstream | None) -> None:
        """Say where clients go from now on; None: they wait."""
        self._upstream = upstream
        self._switched.give()

    def open_connections(self, upstream: Upstream) -> int:
        """How many clients this upstream has now."""
        return sum(each is upstream for each in self._upstreams.values())

    async def emptied(self, upstream: Upstream, timeout_s: float) -> bool:
        """Wait until the upstream has no client any more; False: it still has when the time is over."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout_s
        while self.open_connections(upstream) and (left := deadline - clock()) > 0:
            await self._left.wait(left)
        return not self.open_connections(upstream)

    async def stop_listening(self) -> None:
        """Let no more clients come; those that are here go on."""
        while self._listeners:
            self._listeners.pop().close()

    async def close(self) -> None:
        """Stop listening and cut off all clients."""
        await self.stop_listening()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _begin(self, client: socket.socket) -> None:
        task = asyncio.create_task(self._serve(client))
        self._tasks.add(task)
        task.add_done_callback(lambda ended: self._end(ended, client))

    def _end(self, task: asyncio.Task[None], client: socket.socket) -> None:
        self._tasks.discard(task)
        client.close()  # a task that is cancelled before it begins does nothing at all
        if not task.cancelled() and (error := task.exception()) is not None:
            _logger.error("A connection failed: %r", error, exc_info=error)

    async def _serve(self, client: socket.socket) -> None:
        connection = await RelayedConnection.of(client)
        try:
            if await connection.speaks():
                await connection.unless_gone(self._find_server(connection), self.wait_s)
                await self._answer(connection)
        except OSError:  # one side has broken off, which the other one must see as well
            connection.reset()
        finally:
            self._leave(connection)
            await connection.close()

    async def _find_server(self, connection: RelayedConnection) -> None:
        while connection not in self._upstreams:
            upstream = self._upstream
            found = upstream is not None and await connection.reach(upstream.host, upstream.port)
            if upstream is not self._upstream:  # switched meanwhile
                continue
            if upstream is not None and found:
                self._upstreams[connection] = upstream
            else:  # there is none, or it has just died, which whoever watches over it will tell
                await self._switched.wait(None if upstream is None else _RETRY_S)

    async def _answer(self, connection: RelayedConnection) -> None:
        if connection not in self._upstreams:
            await connection.refuse(_UNAVAILABLE)
            return
        await connection.exchange()
        self._leave(connection)
        await connection.finish()

    def _leave(self, connection: RelayedConnection) -> None:
        if self._upstreams.pop(connection, None) is not None:
            self._left.give()


class _Signal:
    """Wakes all that wait for it."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def give(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self, timeout_s: float | None) -> None:
        """Until it is given or the time is over."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        try:
            await asyncio.wait({waiter}, timeout=timeout_s)
        finally:
            self._waiting.discard(waiter)
