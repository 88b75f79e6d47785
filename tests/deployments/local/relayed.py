"""A relay with real sockets on both sides, and a check that it leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import struct
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, TypeVar

from mlflow_llm_plugins.deployments.local.relay.relay import Relay, Upstream

T = TypeVar("T")
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

DEADLINE_S = 60
HERE = "127.0.0.1"


def run(main: Callable[[Relay, int], Awaitable[T]], wait_s: float = DEADLINE_S) -> T:
    """Run a test with a relay and its port; afterwards no task and no socket is left, and nobody has complained."""
    complaints: list[object] = []

    async def with_relay() -> T:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        before = sockets()
        relay = Relay(wait_s)
        try:
            return await asyncio.wait_for(main(relay, await relay.listen(HERE, None)), DEADLINE_S)
        finally:
            await relay.close()
            assert asyncio.all_tasks() == {asyncio.current_task()}
            gc.collect()  # an error that nobody has asked for is told when its task is collected
            await until(lambda: sockets() <= before)

    with noting(complaints):
        result = asyncio.run(with_relay())
    assert complaints == []
    return result


@contextmanager
def noting(complaints: list[object]) -> Iterator[None]:
    """Errors in the log, and warnings of what was not closed."""
    handler = logging.Handler(logging.ERROR)
    handler.emit = complaints.append  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always", ResourceWarning)
            yield
        complaints += [str(warning.message) for warning in found]
    finally:
        logging.getLogger().removeHandler(handler)


def sockets() -> set[str]:
    """Sockets that this process has open."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found.add(os.readlink(f"/proc/self/fd/{number}"))
    return {name for name in found if name.startswith("socket:")}


async def until(condition: Callable[[], Any], seconds: float = DEADLINE_S) -> None:
    """Wait for something that tells nobody."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + seconds
    while not condition():
        assert clock() < deadline, "waited in vain"
        await asyncio.sleep(0.01)


class Server:
    """Runs a handler for each connection, and knows how each ended."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.came = 0
        self.ends: list[BaseException | None] = []  # what each handler raised, or None
        self.tasks: set[asyncio.Task[Any]] = set()
        self.upstream: Upstream

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self.serve(reader, writer))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.came += 1
        end: BaseException | None = None
        try:
            await self.handler(reader, writer)
        except (OSError, asyncio.IncompleteReadError) as error:
            end = error
        finally:
            self.ends.append(end)
            writer.close()


@asynccontextmanager
async def serving(handler: Handler, port: int = 0) -> AsyncIterator[Server]:
    """A server on the loopback interface until the block ends."""
    server = Server(handler)
    listening = await asyncio.start_server(server.accept, HERE, port)
    server.upstream = Upstream(HERE, listening.sockets[0].getsockname()[1])
    try:
        yield server
    finally:
        listening.close()
        tasks = list(server.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def client(port: int, host: str = HERE) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection until the block ends."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()


def reset(writer: asyncio.StreamWriter) -> None:
    """Break off, as the system does for a process that was killed with bytes unread."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def ask(port: int, question: str = "who") -> str:
    """A line sent on a connection of its own, and all that is answered."""
    async with client(port) as (reader, writer):
        writer.write(f"{question}\n".encode())
        return (await reader.read()).decode()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what comes in."""
    while data := await reader.read(2**16):
        writer.write(data)
        await writer.drain()


def answering(name: str) -> Handler:
    """Answers one line with the name and the line."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        question = await reader.readline()
        writer.write(f"{name} {question.decode().strip()}".encode())
        await writer.drain()

    return answer


async def listen_only(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read until the end, and say nothing."""
    while await reader.read(2**16):
        pass
