"""The pipe between a server and its log."""

from __future__ import annotations

import asyncio
import os

from mlflow_llm_plugins.deployments.local.server.log import ServerLog


class LogPipe(asyncio.Protocol):
    """Reads all that is written to it until nobody holds the other end: a full pipe would stop the server.

    Its own pipe, not one of `create_subprocess_exec`: some versions of asyncio count a process as running as long as
    another one holds its output.
    """

    def __init__(self, log: ServerLog) -> None:
        """Nothing is open yet."""
        self._log = log
        self._ended = asyncio.Event()
        self._transport: asyncio.ReadTransport | None = None

    async def open(self) -> int:
        """The descriptor to write to; who gives it to a process closes it then."""
        read, write = os.pipe()
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.connect_read_pipe(lambda: self, os.fdopen(read, "rb", buffering=0))
        return write

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        self._log.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self._ended.set()

    async def drained(self, timeout_s: float) -> None:
        """Wait until all is read; for a while only, as a process that left the server's family may hold the pipe."""
        ended = asyncio.create_task(self._ended.wait())
        try:
            await asyncio.wait({ended}, timeout=timeout_s)
        finally:
            ended.cancel()

    def close(self) -> None:
        """Read no more."""
        if self._transport is not None:
            self._transport.close()
        self._log.close()
