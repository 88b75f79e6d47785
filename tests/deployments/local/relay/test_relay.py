"""The relay passes bytes on unchanged, lets clients wait for a server, and ends one side when the other one ends."""

from __future__ import annotations

import asyncio
import errno
import random
import signal
import socket
import subprocess
import sys
from contextlib import AsyncExitStack, suppress

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_llm_plugins.deployments.local.relay.relay import Relay, Upstream
from tests.deployments.local.relayed import (
    DEADLINE_S,
    HERE,
    answering,
    ask,
    client,
    echo,
    listen_only,
    reset,
    run,
    serving,
    until,
)
from tests.e2e.serving import free_port

SOON_S = 1.0
PATIENCE_S = 0.2  # of relays that are meant to give up
MIB = 2**20


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 200_000), min_size=1, max_size=12), st.integers())
def test_bytes_arrive_unchanged_in_both_directions_however_they_are_cut(sizes, seed):
    chunks = [random.Random(seed).randbytes(size) for size in sizes]

    async def main(relay, port):
        async with serving(echo) as server, client(port) as (reader, writer):
            relay.switch(server.upstream)

            async def send():
                for chunk in chunks:
                    writer.write(chunk)
                    await writer.drain()
                    await asyncio.sleep(0)

            sending = asyncio.ensure_future(send())
            received = await reader.readexactly(sum(sizes))
            await sending
            return received

    assert run(main) == b"".join(chunks)


def test_hundreds_of_clients_at_once_each_get_their_own_answer():
    async def main(relay, port):
        async with serving(answering("A")) as server:
            relay.switch(server.upstream)
            return await asyncio.gather(*(ask(port, str(number)) for number in range(400)))

    assert run(main) == [f"A {number}" for number in range(400)]


def test_switch_under_load_loses_nothing_and_is_exact():
    async def main(relay, port):
        stop, answers = asyncio.Event(), []

        async def ask_on():
            while not stop.is_set():
                answers.append(await ask(port))

        async with serving(answering("A")) as a, serving(answering("B")) as b:
            relay.switch(a.upstream)
            clients = [asyncio.ensure_future(ask_on()) for _ in range(16)]
            for server, name in [(b, "B"), (a, "A")] * 15:
                relay.switch(server.upstream)
                assert await ask(port) == f"{name} who"
            stop.set()
            await asyncio.gather(*clients)
        return answers

    assert set(run(main)) == {"A who", "B who"}


def test_connection_keeps_its_server_when_new_ones_go_elsewhere():
    async def main(relay, port):
        async with serving(echo) as old, serving(answering("new")) as new, client(port) as (reader, writer):
            relay.switch(old.upstream)
            writer.write(b"one")
            assert await reader.readexactly(3) == b"one"
            for upstream in (new.upstream, None):
                relay.switch(upstream)
                writer.write(b"two")
                assert await reader.readexactly(3) == b"two"
                assert relay.open_connections(old.upstream) == 1

    run(main)


def test_what_a_client_sends_before_there_is_a_server_reaches_it():
    early = random.Random(1).randbytes(MIB)

    async def main(relay, port):
        async with serving(echo) as server, client(port) as (reader, writer):
            writer.write(early[:10])
            await asyncio.sleep(0.05)
            writer.write(early[10:])
            await asyncio.sleep(0.05)
            relay.switch(server.upstream)
            return await reader.readexactly(len(early))

    assert run(main) == early


def test_client_that_has_asked_nothing_is_not_known_to_any_server():
    async def main(relay, port):
        async with serving(echo) as old, serving(answering("new")) as new, client(port) as (reader, writer):
            relay.switch(old.upstream)
            assert await ask_and_close(port) == b"x"  # whoever came before has been accepted
            assert old.came == 1
            relay.switch(new.upstream)
            writer.write(b"who\n")
            assert await reader.read() == b"new who"

    async def ask_and_close(port):
        async with client(port) as (reader, writer):
            writer.write(b"x")
            return await reader.readexactly(1)

    run(main)


async def post(port: int, body: bytes = b"{}") -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=DEADLINE_S) as http:
        return await http.post(f"http://{HERE}:{port}/v1/chat/completions", content=body)


@pytest.mark.parametrize("size", [2, 8 * MIB])
def test_client_that_waited_too_long_is_told_when_to_come_again(size):
    async def main(relay, port):
        return await post(port, b"x" * size)

    response = run(main, wait_s=PATIENCE_S)
    assert (response.status_code, response.reason_phrase) == (503, "Service Unavailable")
    assert (response.headers["retry-after"], response.headers["connection"]) == ("1", "close")
    assert response.elapsed.total_seconds() >= 0.9 * PATIENCE_S
    assert response.json()["error"] == {
        "message": "The server is being started or restarted. Try again later.",
        "type": "server_error",
        "param": None,
        "code": "server_unavailable",
    }


def test_server_that_refuses_is_waited_for():
    async def main(relay, port):
        relay.switch(Upstream(HERE, behind := free_port()))
        asking = asyncio.ensure_future(ask(port))
        await asyncio.sleep(0.05)
        async with serving(answering("late"), behind):
            return await asyncio.wait_for(asking, SOON_S)

    assert run(main) == "late who"


def test_switch_away_from_a_server_that_refuses_takes_effect_at_once(monkeypatch):
    monkeypatch.setattr("mlflow_llm_plugins.deployments.local.relay.relay._RETRY_S", DEADLINE_S)

    async def main(relay, port):
        relay.switch(Upstream(HERE, free_port()))
        asking = asyncio.ensure_future(ask(port))
        await asyncio.sleep(0.05)
        async with serving(answering("other")) as other:
            relay.switch(other.upstream)
            return await asyncio.wait_for(asking, SOON_S)

    assert run(main) == "other who"


def test_server_that_goes_on_refusing_is_given_up():
    async def main(relay, port):
        relay.switch(Upstream(HERE, free_port()))
        return (await post(port)).status_code

    assert run(main, wait_s=PATIENCE_S) == 503


@pytest.mark.parametrize("how", ["closes", "resets", "half-closes"])
def test_server_sees_at_once_that_its_client_ends(how):
    async def main(relay, port):
        async with serving(listen_only) as server, client(port) as (_, writer):
            relay.switch(server.upstream)
            writer.write(b"x")
            await until(lambda: server.came)
            {"closes": writer.close, "resets": lambda: reset(writer), "half-closes": writer.write_eof}[how]()
            await until(lambda: server.ends, SOON_S)
            await until(lambda: relay.open_connections(server.upstream) == 0, SOON_S)
            return type(server.ends[0])

    assert run(main) is (ConnectionResetError if how == "resets" else type(None))


@pytest.mark.parametrize("how", ["closes", "resets", "half-closes"])
def test_client_that_gave_up_waiting_asks_no_server(how):
    async def main(relay, port):
        async with serving(answering("A")) as server, client(port) as (_, writer), client(port) as (_, other):
            writer.write(b"headers")
            other.write(b"headers")
            await asyncio.sleep(0.05)  # the relay reads on while it waits
            writer.write(b"body\n")
            {"closes": writer.close, "resets": lambda: reset(writer), "half-closes": writer.write_eof}[how]()
            await asyncio.sleep(0.05)
            relay.switch(server.upstream)
            await until(lambda: server.came)
            assert await ask(port) == "A who"
            return server.came

    assert run(main) == 2


def test_answer_is_whole_when_the_server_closes_after_it():
    size = 16 * MIB

    async def answer(reader, writer):
        await reader.readline()
        writer.write(b"x" * size)

    async def main(relay, port):
        async with serving(answer) as server:
            relay.switch(server.upstream)
            return len(await ask(port))

    assert run(main) == size


DYING = """
import socket
with socket.create_server(("127.0.0.1", 0)) as listening:
    print(listening.getsockname()[1], flush=True)
    connection, _ = listening.accept()
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n")
    connection.sendall(b"5\\r\\nhello\\r\\n")
    input()
"""


def test_client_sees_promptly_that_the_server_was_killed_in_mid_answer():
    async def main(relay, port):
        relay.switch(Upstream(HERE, int(process.stdout.readline())))
        async with (
            httpx.AsyncClient(trust_env=False, timeout=DEADLINE_S) as http,
            http.stream("GET", f"http://{HERE}:{port}/") as response,
        ):
            received = response.aiter_raw()
            assert await anext(received) == b"hello"
            process.kill()
            with pytest.raises(httpx.TransportError):
                await asyncio.wait_for(anext(received), SOON_S)

    with subprocess.Popen([sys.executable, "-c", DYING], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            run(main)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL


def test_client_is_reset_when_the_server_breaks_off():
    async def break_off(reader, writer):
        await reader.readline()
        writer.write(b"half an ")
        await writer.drain()
        await going_on.wait()
        reset(writer)

    async def main(relay, port):
        async with serving(break_off) as server, client(port) as (reader, writer):
            relay.switch(server.upstream)
            writer.write(b"x\n")
            assert await reader.readexactly(8) == b"half an "
            going_on.set()
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(reader.read(), SOON_S)

    going_on = asyncio.Event()
    run(main)


def test_answer_to_a_request_that_the_server_does_not_read_reaches_a_client_that_still_sends():
    """As uvicorn refuses a large body: it answers at the headers and closes, which the system tells as a reset."""
    refusal = b"HTTP/1.1 413 Too Large\r\nconnection: close\r\ncontent-length: 5\r\n\r\nlarge"

    async def refuse(reader, writer):
        await reader.readline()
        writer.write(refusal)
        await writer.drain()

    async def main(relay, port):
        async with serving(refuse) as server:
            relay.switch(server.upstream)
            return [await asyncio.to_thread(told, port) for _ in range(30)]

    def told(port):
        """What a client reads that sends all it has, as most do."""
        with socket.create_connection((HERE, port)) as sending:
            sending.settimeout(SOON_S)
            with suppress(BrokenPipeError, ConnectionResetError):
                sending.sendall(b"POST / HTTP/1.1\r\n" + b"x" * 6 * MIB)
            return b"".join(iter(lambda: sending.recv(1000), b""))

    assert run(main) == [refusal] * 30


@pytest.mark.parametrize("slow", ["client", "server"])
def test_slow_reader_stops_the_other_side_and_loses_nothing(slow):
    total, going_on = 96 * MIB, asyncio.Event()
    sent = received = 0

    async def send(writer):
        nonlocal sent
        while sent < total:
            writer.write(bytes(MIB))
            await writer.drain()
            sent += MIB

    async def receive(reader):
        nonlocal received
        await going_on.wait()
        while received < total:
            received += len(await reader.read(2**16))

    async def handle(reader, writer):
        await reader.readexactly(1)
        await (send(writer) if slow == "client" else receive(reader))

    async def stands_still():
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.3)

    async def main(relay, port):
        async with serving(handle) as server, client(port) as (reader, writer):
            relay.switch(server.upstream)
            writer.write(b"x")
            ours = asyncio.ensure_future(receive(reader) if slow == "client" else send(writer))
            await stands_still()
            stopped_at = sent
            going_on.set()
            await ours
            await until(lambda: received == total)
            return stopped_at

    assert run(main) < total / 2  # what the system holds on the way, not what came


def test_emptied_tells_whether_the_last_client_has_left_in_time():
    async def main(relay, port):
        async with serving(echo) as server, AsyncExitStack() as clients:
            relay.switch(server.upstream)
            assert await relay.emptied(server.upstream, 0)
            writers = [(await clients.enter_async_context(client(port)))[1] for _ in range(3)]
            for writer in writers:
                writer.write(b"x")
            await until(lambda: relay.open_connections(server.upstream) == 3)
            assert not await relay.emptied(server.upstream, 0)
            assert not await relay.emptied(server.upstream, 0.05)
            waiting = asyncio.ensure_future(relay.emptied(server.upstream, DEADLINE_S))
            for writer in writers[:2]:
                writer.close()
            await until(lambda: relay.open_connections(server.upstream) == 1)
            assert not waiting.done()
            writers[2].close()
            assert await asyncio.wait_for(waiting, SOON_S)

    run(main)


def test_two_upstreams_at_one_address_are_counted_apart():
    async def main(relay, port):
        async with serving(echo) as server, client(port) as (_, first), client(port) as (_, second):
            again = Upstream(server.upstream.host, server.upstream.port)
            assert again != server.upstream
            for upstream, writer in [(server.upstream, first), (again, second)]:
                relay.switch(upstream)
                writer.write(b"x")
                await until(lambda upstream=upstream: relay.open_connections(upstream) == 1)
            first.close()
            assert await relay.emptied(server.upstream, SOON_S)
            return relay.open_connections(again)

    assert run(main) == 1


def test_switch_while_a_connection_to_the_old_server_is_made_still_counts(monkeypatch):
    async def main(relay, port):
        looked_up, going_on = asyncio.Event(), asyncio.Event()

        async def getaddrinfo(host, port, **options):
            looked_up.set()
            await going_on.wait()
            return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (HERE, port))]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
        async with serving(answering("old")) as old, serving(answering("new")) as new:
            relay.switch(Upstream("old.invalid", old.upstream.port))
            asking = asyncio.ensure_future(ask(port))
            await looked_up.wait()
            relay.switch(new.upstream)
            going_on.set()
            return await asking

    assert run(main) == "new who"


def test_close_cuts_off_every_client_whatever_it_does():
    async def main(relay, port):
        async with serving(listen_only) as server, AsyncExitStack() as clients:
            streams = [await clients.enter_async_context(client(port)) for _ in range(60)]
            for number, (_, writer) in enumerate(streams):
                writer.write(b"x" * [0, 1, 200_000][number % 3])  # silent, and waiting with little or much
            await asyncio.sleep(0.05)
            relay.switch(server.upstream)
            await until(lambda: relay.open_connections(server.upstream) == 40)
            relay.switch(None)
            streams += [await clients.enter_async_context(client(port)) for _ in range(20)]
            for _, writer in streams[60:]:
                writer.write(b"x")
            await relay.close()
            assert relay.open_connections(server.upstream) == 0
            ends = await asyncio.gather(*(reader.read() for reader, _ in streams), return_exceptions=True)
            assert all(end == b"" or isinstance(end, OSError) for end in ends)

    run(main)


def test_address_is_free_again_after_listening_and_open_connections_go_on():
    async def main(relay, port):
        async with serving(echo) as server, client(port) as (reader, writer):
            relay.switch(server.upstream)
            writer.write(b"one")
            assert await reader.readexactly(3) == b"one"
            await relay.stop_listening()
            with pytest.raises(ConnectionRefusedError):
                await ask(port)
            assert await relay.listen(HERE, port) == port
            writer.write(b"two")
            assert await reader.readexactly(3) == b"two"
            async with client(port) as (reader, writer):
                writer.write(b"new")
                assert await reader.readexactly(3) == b"new"

    run(main)


def test_client_that_connected_just_before_the_end_of_listening_is_served():
    async def main(relay, port):
        async with serving(answering("A")) as server:
            relay.switch(server.upstream)
            with socket.create_connection((HERE, port)) as late:  # blocks: the loop has not looked yet
                late.sendall(b"who\n")
                await relay.stop_listening()
                late.setblocking(False)
                return await asyncio.get_running_loop().sock_recv(late, 100)

    assert run(main) == b"A who"


def test_client_that_connected_just_before_the_end_is_sent_away():
    async def main(relay, port):
        with socket.create_connection((HERE, port)) as late:
            await relay.close()
            late.setblocking(False)
            return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(late, 100), SOON_S)

    assert run(main) == b""


def test_taken_port_is_the_systems_error():
    async def main(relay, port):
        with pytest.raises(OSError, match="in use") as raised:
            await Relay(1).listen(HERE, port)
        return raised.value.errno

    assert run(main) == errno.EADDRINUSE
