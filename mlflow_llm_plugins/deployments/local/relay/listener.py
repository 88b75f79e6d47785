"""Sockets that listen for clients: on every address of a host, all on one port, also when descriptors run out."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Any

_logger = logging.getLogger(__name__)

_BACKLOG = 1024  # connections that the system holds until they are accepted
_PAUSE_S = 1.0
_ATTEMPTS = 10
_DESCRIPTORS = 65_536  # no deployment has more, and its server may start programs that look at each that is allowed
_NOT_HERE = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}


class Listener:
    """One listening socket, whose clients are handed over as they come; belongs to the running event loop.

    Not asyncio's own server, which logs an error and sets a timer for each place of its backlog when it has no
    descriptor left (Python 3.10 to 3.13).
    """

    def __init__(self, listening: socket.socket, on_client: Callable[[socket.socket], None]) -> None:
        """Begin; the socket is closed by `close`, those of the clients are the callback's."""
        self._socket = listening
        self._on_client = on_client
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None  # while no descriptor is left
        listening.setblocking(False)
        self._resume()

    def close(self) -> None:
        """Hand over those that are connected already, and let no more come."""
        if self._pause is None:  # else there is no descriptor for them
            self._accept()
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _accept(self) -> None:
        for _ in range(_BACKLOG):  # then others have their turn
            try:
                client, _ = self._socket.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:  # it has gone again
                continue
            except OSError as error:  # no descriptor is left
                self._rest(error)
                return
            self._on_client(client)

    def _rest(self, error: OSError) -> None:
        _logger.warning("New clients wait for %g s: %s", _PAUSE_S, error)
        self._loop.remove_reader(self._socket)
        self._pause = self._loop.call_later(_PAUSE_S, self._resume)

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._socket, self._accept)


async def bound(host: str, port: int | None) -> list[socket.socket]:
    """Listening sockets on all addresses of a host that this machine has, at least one.

    Args:
        host: IPv4 or IPv6 address, or a name.
        port: The same for all; None: one that is free.

    Raises:
        OSError: As the system says it: the port is taken, or the host is not here.
    """
    loop = asyncio.get_running_loop()
    addresses = _addresses(await loop.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE))
    attempts = 1 if port else _ATTEMPTS  # what is free on one address may be taken on the next
    while True:
        attempts -= 1
        try:
            return _on_one_port(addresses)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not attempts:
                raise


def try_to_bind(host: str, port: int | None) -> None:
    """Listen as `bound` would, for an instant; raises as it does."""
    found = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for listening in _on_one_port(_addresses(found)[: None if port else 1]):  # a free port may be taken on the next
        listening.close()


def _addresses(found: Sequence[Any]) -> list[tuple[socket.AddressFamily, Any]]:
    """Of what the system's resolver gives, each one once."""
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _on_one_port(addresses: Sequence[tuple[socket.AddressFamily, Any]]) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    with ExitStack() as opened:
        for family, (host, asked, *scope) in addresses:
            port = sockets[0].getsockname()[1] if sockets else asked
            try:
                listening = socket.create_server((host, port, *scope), family=family, backlog=_BACKLOG)
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                missing = error  # "localhost" has an IPv6 address also where there is no IPv6, as in many containers
            else:
                sockets.append(opened.enter_context(listening))
        if missing is not None and not sockets:
            raise missing
        opened.pop_all()
    return sockets


def raise_descriptor_limit() -> None:
    """Let this process and its children have many sockets: the usual 1024 are for programs that use `select()`."""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # macOS allows fewer than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
