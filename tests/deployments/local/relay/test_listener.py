"""Listening on all addresses of a host, with a free port or a given one, and without descriptors."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

import pytest

from mlflow_llm_plugins.deployments.local.relay.listener import bound
from tests.deployments.local.relayed import HERE, answering, client, run, serving

LACKING = "192.0.2.1"  # for documentation: no machine has it


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="there is no IPv6 here")


@pytest.mark.parametrize("host", [HERE, pytest.param("::1", marks=needs_ipv6), "localhost"])
def test_clients_come_in_on_every_address_of_the_host(host):
    async def main(relay, _):
        port = await relay.listen(host, None)
        addresses = {found[4][0] for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
        answers = set()
        async with serving(answering("A")) as server:
            relay.switch(server.upstream)
            for address in addresses if has_ipv6() else {HERE}:
                async with client(port, address) as (reader, writer):
                    writer.write(b"who\n")
                    answers.add(await reader.read())
        return answers

    assert run(main) == {b"A who"}


def test_host_that_is_not_on_this_machine_is_the_systems_error():
    async def main():
        with pytest.raises(OSError, match="assign"):
            await bound(LACKING, None)
        with pytest.raises(socket.gaierror):
            await bound("no-such-host.invalid", None)

    asyncio.run(main())


@pytest.fixture
def named(monkeypatch) -> Callable[..., Awaitable[list[tuple[str, int]]]]:
    """Listen, for a moment, on a name that has these addresses; returns those listened on."""

    async def listen(*hosts: str, port: int | None) -> list[tuple[str, int]]:
        async def getaddrinfo(name, port, **options):
            family = {True: socket.AF_INET6, False: socket.AF_INET}
            return [(family[":" in host], socket.SOCK_STREAM, 6, "", (host, port)) for host in hosts]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
        with ExitStack() as opened:
            return [opened.enter_context(found).getsockname()[:2] for found in await bound("a-name", port)]

    return listen


def test_address_that_the_machine_lacks_does_not_take_the_others_from_a_name(named):
    found = asyncio.run(named(LACKING, HERE, port=None))
    assert [host for host, _ in found] == [HERE]


@needs_ipv6
def test_all_addresses_of_a_name_get_one_port(named):
    async def main():
        return [await named("::1", HERE, HERE, port=None) for _ in range(20)]

    for (first, port), second in asyncio.run(main()):
        assert (first, second) == ("::1", (HERE, port))


def test_free_port_that_is_taken_on_the_next_address_is_given_up_for_another(named, monkeypatch):
    calls, create_server = [], socket.create_server

    def taken_once(address, **options):
        calls.append(address)
        if len(calls) == 2:
            raise OSError(errno.EADDRINUSE, "in use")
        return create_server(address, **options)

    monkeypatch.setattr(socket, "create_server", taken_once)
    (_, first), (_, second) = asyncio.run(named(HERE, "127.0.0.2", port=None))
    assert first == second
    assert len(calls) == 4


@needs_ipv6
def test_port_that_is_taken_on_one_address_of_a_name_is_refused_and_nothing_stays_open(named):
    async def main():
        with socket.create_server((HERE, 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(OSError, match="in use"):
                await named("::1", HERE, port=port)
            socket.create_server(("::1", port), family=socket.AF_INET6).close()

    asyncio.run(main())


def test_clients_are_accepted_again_when_descriptors_come_free(caplog):
    async def main(relay, port):
        async with serving(answering("A")) as server:
            relay.switch(server.upstream)
            loop = asyncio.get_running_loop()
            with ExitStack() as clients:
                sockets = [clients.enter_context(socket.socket()) for _ in range(5)]
                soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
                next_free = os.dup(0)
                os.close(next_free)
                resource.setrlimit(resource.RLIMIT_NOFILE, (next_free, hard))
                try:
                    for each in sockets:
                        each.connect((HERE, port))
                        each.sendall(b"who\n")
                        each.setblocking(False)
                    busy = time.process_time()
                    await asyncio.sleep(0.5)
                    busy = time.process_time() - busy
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                answers = [await loop.sock_recv(each, 100) for each in sockets]
                return answers, busy

    answers, busy = run(main)
    assert answers == [b"A who"] * 5
    assert busy < 0.25
    said = [record.getMessage() for record in caplog.records if record.name.startswith("mlflow_llm_plugins")]
    assert said == [f"New clients wait for 1 s: [Errno 24] {os.strerror(24)}"]


LIMIT = """
import resource
from mlflow_llm_plugins.deployments.local.relay.listener import raise_descriptor_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 2048))
raise_descriptor_limit()
print(resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_listening_process_may_have_as_many_descriptors_as_the_system_allows():
    done = subprocess.run([sys.executable, "-c", LIMIT], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "(2048, 2048)\n"
