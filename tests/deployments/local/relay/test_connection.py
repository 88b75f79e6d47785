"""A client's connection keeps what is on its way when one side has ended, for a while."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mlflow_llm_plugins.deployments.local.relay.connection import RelayedConnection
from tests.deployments.local.relayed import DEADLINE_S, HERE, Handler, serving

SMALL = 4096  # bytes that the system holds on the way


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[RelayedConnection, socket.socket, socket.socket]]:
    """A connection, its socket, and the client, both with little room."""
    with socket.create_server((HERE, 0)) as listening, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        client.connect(listening.getsockname())
        client.setblocking(False)
        accepted, _ = listening.accept()
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
        connection = await RelayedConnection.of(accepted)
        try:
            yield connection, accepted, client
        finally:
            await connection.close()
            assert accepted.fileno() == -1


async def read_all(client: socket.socket) -> bytes:
    received, loop = b"", asyncio.get_running_loop()
    while data := await loop.sock_recv(client, 1000):
        received += data
    return received


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(100)
    writer.write(b"x" * 60_000)


async def exchanged(connection: RelayedConnection, client: socket.socket, handler: Handler = answer) -> None:
    """Let the client ask, and the server answer and close, while the client does not read."""
    async with serving(handler) as server:
        client.sendall(b"who")
        assert await connection.speaks()
        assert await connection.reach(server.upstream.host, server.upstream.port)
        await asyncio.wait_for(connection.exchange(), DEADLINE_S)


def test_client_that_reads_late_gets_all_that_a_server_said_before_it_went():
    async def main():
        async with connected() as (connection, _, client):
            await exchanged(connection, client)
            finishing = asyncio.ensure_future(connection.finish())
            received = await asyncio.wait_for(read_all(client), DEADLINE_S)
            await finishing
            return received

    assert asyncio.run(main()) == b"x" * 60_000


def test_client_that_never_reads_is_cut_off(monkeypatch):
    monkeypatch.setattr("mlflow_llm_plugins.deployments.local.relay.connection._FLUSH_S", 0.05)

    async def main():
        async with connected() as (connection, _, client):
            await exchanged(connection, client)
            await asyncio.wait_for(connection.finish(), DEADLINE_S)
            return await read_all(client)

    assert len(asyncio.run(main())) < 60_000


def test_connection_can_be_closed_while_its_client_reads_late():
    async def main():
        async with connected() as (connection, _, client):
            await exchanged(connection, client)
            finishing = asyncio.ensure_future(connection.finish())
            await asyncio.sleep(0)
            finishing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await finishing

    asyncio.run(main())


def test_sockets_of_clients_send_at_once_and_notice_dead_machines():
    async def main():
        async with connected() as (_, accepted, _):
            return [
                accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY),
                accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
            ]

    assert all(asyncio.run(main()))
