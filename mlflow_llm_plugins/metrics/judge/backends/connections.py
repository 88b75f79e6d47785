"""Connections to a judge's server that keep to their time.

A timeout of requests is of each read (2.34): an answer that drips takes as long as it likes. Here it is of the answer,
with its headers.
"""

from __future__ import annotations

import io
import socket
import threading
import time
from functools import partial
from http.client import HTTPResponse
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3 import PoolManager

from mlflow_llm_plugins.metrics.judge.backends.stopping import Stopping


class Connections(HTTPAdapter):
    """Kept connections to one server; safe to use from several threads."""

    def __init__(self, count: int, stopping: Stopping) -> None:
        """Begin; nothing is connected yet.

        Args:
            count: Connections that are kept.
            stopping: Ends answers when it is set.
        """
        self._response = partial(_TimedResponse, stopping)
        self._first_use = threading.Lock()  # of a proxy
        super().__init__(pool_connections=1, pool_maxsize=count)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """As requests has it, with answers that keep to their time."""
        super().init_poolmanager(*args, **kwargs)
        self._time(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """As requests has it, with answers that keep to their time."""
        with self._first_use:
            is_known = proxy in self.proxy_manager
            manager = super().proxy_manager_for(proxy, **kwargs)
            if not is_known:
                self._time(manager)
            return manager

    def close(self) -> None:
        """Close the connections at once; a later request opens others.

        urllib3 2 leaves it to the garbage collector, and an error that is kept may hold a pool.
        """
        for manager in (self.poolmanager, *self.proxy_manager.values()):
            for key in manager.pools.keys():  # noqa: SIM118  # no dictionary, it cannot be iterated over
                if (pool := manager.pools.get(key)) is not None:
                    pool.close()
        super().close()

    def _time(self, manager: PoolManager) -> None:
        pools = manager.pool_classes_by_scheme.items()
        manager.pool_classes_by_scheme = {scheme: self._timed(pool) for scheme, pool in pools}

    def _timed(self, pool: Any) -> Any:
        connection = pool.ConnectionCls
        timed = type(connection.__name__, (connection,), {"response_class": staticmethod(self._response)})
        return type(pool.__name__, (pool,), {"ConnectionCls": timed})


class _TimedResponse(HTTPResponse):
    """An answer that takes no longer than its socket's timeout, and ends with the call that waits for it."""

    def __init__(self, stopping: Stopping, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_TimedReads(self.fp.detach(), sock, stopping))


class _TimedReads(io.RawIOBase):
    def __init__(self, reads: io.RawIOBase, sock: socket.socket, stopping: Stopping) -> None:
        super().__init__()
        timeout_s = sock.gettimeout()
        assert timeout_s is not None  # each request has one
        self._reads = reads
        self._socket = sock
        self._end_s = time.monotonic() + timeout_s
        self._stopping = stopping
        stopping.cut_at_end(sock)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left_s = self._end_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        self._socket.settimeout(left_s)
        return self._reads.readinto(buffer)

    def close(self) -> None:
        self._stopping.keep(self._socket)  # it may wait for another call's answer soon
        self._reads.close()
        super().close()
