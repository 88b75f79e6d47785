"""One client's way through the relay, from its first byte until either side ends it."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from typing_extensions import Self

_CHUNK = 64 * 1024  # bytes read at a time, and about as many are kept of a client that waits
_FLUSH_S = 30.0  # for the rest of an answer to reach a client that reads slowly
_LAST_WORDS_S = 2.0  # for a client to stop sending once it is refused
_STILL_SENDS_S = 0.2  # in which more comes from a client that is in the middle of a request


@dataclass(frozen=True, slots=True)
class _End:
    """One of the two sides."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def opened(cls, host: str | None = None, port: int | None = None, **options: Any) -> Self:
        return cls(*await asyncio.open_connection(host, port, limit=_CHUNK, **options))

    async def pass_on(self, other: _End) -> None:
        """Send what comes in here to the other side, at its speed, until no more comes."""
        while data := await self.reader.read(_CHUNK):
            other.writer.write(data)
            await other.writer.drain()

    async def finish(self) -> None:
        """Close once all is sent; a peer that does not take it in time is cut off."""
        self.writer.close()
        timer = asyncio.get_running_loop().call_later(_FLUSH_S, self.abort)
        try:
            await asyncio.shield(self.writer.wait_closed())  # asyncio has one future for all who wait for this
        finally:
            timer.cancel()

    @property
    def is_broken(self) -> bool:
        """Whether asyncio has closed it, as it does when a read or a write fails."""
        return self.writer.transport.is_closing()

    def reset(self) -> None:
        """Close at once, so that the peer cannot take it for the end of an answer."""
        with suppress(OSError):  # closed already
            self.writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
        self.abort()

    def abort(self) -> None:
        """Close at once, whatever is left to send."""
        # asyncio's abort fails on a transport that has closed itself after its last write (3.11 at least).
        if self.writer.get_extra_info("socket").fileno() != -1:
            self.writer.transport.abort()


class RelayedConnection:
    """A client, and its server once there is one. Whoever makes it must `close` it."""

    def __init__(self, client: _End) -> None:
        """Without a server."""
        self._client = client
        self._server: _End | None = None
        self._spare: socket.socket | None = None  # of the server, to read what asyncio drops when a write fails
        self._early = bytearray()  # what the client has sent before there was a server

    @classmethod
    async def of(cls, accepted: socket.socket) -> Self:
        """Take over the socket of a client."""
        with suppress(OSError):  # it has gone, which reading will show
            # A client whose machine has vanished would stay for ever.
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            # asyncio sets this only on sockets whose protocol it has looked up itself.
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return cls(await _End.opened(sock=accepted))

    async def speaks(self) -> bool:
        """Wait for the first bytes; False: the client has gone without a word."""
        self._early += await self._client.reader.read(_CHUNK)
        return bool(self._early)

    async def unless_gone(self, work: Coroutine[Any, Any, None], timeout_s: float) -> None:
        """Do the work, but stop it when the client ends or the time is over; keep what the client sends meanwhile."""
        tasks = [asyncio.create_task(work), asyncio.create_task(self._gone())]
        await _first(tasks, timeout_s)

    async def reach(self, host: str, port: int) -> bool:
        """Connect to a server, in place of the one before; False: nothing listens there."""
        if self._server is not None:
            self._server.abort()
        with suppress(OSError):
            self._server = await _End.opened(host, port)
            self._drop_spare()
            self._spare = self._server.writer.get_extra_info("socket").dup()
            return True
        return False

    async def exchange(self) -> None:
        """Pass bytes on in both directions until either side ends, half or whole; then the server's side is closed.

        A server may answer a request that it does not read, for example a body that is too large, and close. The
        system tells that as a broken connection; the client gets the answer all the same.

        Raises:
            OSError: A side has broken off.
        """
        server = self._server
        assert server is not None  # it was reached
        server.writer.write(bytes(self._early))
        client = self._client
        asking, answering = asyncio.create_task(client.pass_on(server)), asyncio.create_task(server.pass_on(client))
        async with _ended_with(asking, answering):
            done, _ = await asyncio.wait({asking, answering}, return_when=asyncio.FIRST_COMPLETED)
            if server.is_broken and await self._was_refused(asking, answering):
                return
        for task in done:
            task.result()
        client.writer.close()  # begins to send what is left
        self._drop_spare()  # else the server would not see that its side is closed
        await server.finish()

    async def finish(self) -> None:
        """Let the client read what is left of its answer, and close."""
        await self._client.finish()

    async def refuse(self, answer: bytes) -> None:
        """Send an answer that no server gave, and close.

        What the client still sends is read and dropped first: closing on unread bytes would take the answer from it.
        """
        self._client.writer.write(answer)
        await self._send_away()

    def reset(self) -> None:
        """Break off both sides."""
        self._client.reset()
        if self._server is not None:
            self._server.reset()

    async def close(self) -> None:
        """Close what is still open, whatever is left to send."""
        ends = [self._client] if self._server is None else [self._client, self._server]
        self._drop_spare()
        for end in ends:
            end.abort()
        for end in ends:
            with suppress(OSError):
                await end.writer.wait_closed()

    async def _was_refused(self, asking: asyncio.Task[None], answering: asyncio.Task[None]) -> bool:
        """Whether the client was still sending when the server broke off; it then has all that the server said."""
        await asyncio.wait({answering}, timeout=_LAST_WORDS_S)  # it ends when what has come is passed on
        with suppress(OSError, asyncio.TimeoutError):
            await asyncio.wait_for(self._pass_on_rest(), _LAST_WORDS_S)
        if not asking.done():
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            if not await self._sends_more():
                return False
        await self._send_away()
        return True

    async def _pass_on_rest(self) -> None:
        """What asyncio has not read when a write failed."""
        assert self._spare is not None  # the server was reached
        while data := await asyncio.get_running_loop().sock_recv(self._spare, _CHUNK):
            self._client.writer.write(data)
            await self._client.writer.drain()

    async def _sends_more(self) -> bool:
        with suppress(asyncio.TimeoutError):
            return bool(await asyncio.wait_for(self._client.reader.read(_CHUNK), _STILL_SENDS_S))
        return False

    async def _send_away(self) -> None:
        self._client.writer.write_eof()
        timer = asyncio.get_running_loop().call_later(_LAST_WORDS_S, self._client.abort)
        try:
            while await self._client.reader.read(_CHUNK):
                pass
        finally:
            timer.cancel()

    def _drop_spare(self) -> None:
        if self._spare is not None:
            self._spare.close()
            self._spare = None

    async def _gone(self) -> None:
        while len(self._early) < _CHUNK:
            data = await self._client.reader.read(_CHUNK)
            if not data:
                return
            self._early += data
        await asyncio.get_running_loop().create_future()  # it has sent enough: nobody looks until there is a server


async def _first(tasks: list[asyncio.Task[None]], timeout_s: float | None = None) -> None:
    """Wait for the first of the tasks to end, or for the time to be over, and stop the others; its error is raised."""
    async with _ended_with(*tasks):
        done, _ = await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


@asynccontextmanager
async def _ended_with(*tasks: asyncio.Task[None]) -> AsyncIterator[None]:
    """Stop the tasks that still run at the end of the block."""
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
