"""The early end of a call, as the threads that work for it see it."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from weakref import WeakKeyDictionary


class Stopping(threading.Event):
    """Set for the threads of a call that is over; they may outlive it, and do not see that another one has begun.

    Thread-safe. A call is an event, which `end` sets; threads that have joined none are never stopped.
    """

    def __init__(self) -> None:
        """Begin, without a call."""
        super().__init__()
        self._own = threading.local()
        self._endless = threading.Event()
        self._waiting: WeakKeyDictionary[socket.socket, threading.Event] = WeakKeyDictionary()  # for whom
        self._lock = threading.RLock()  # the garbage collector may call `keep` at any time

    def join(self, call: threading.Event) -> None:
        """From now on the calling thread works for this call."""
        self._own.call = call

    def end(self, call: threading.Event) -> None:
        """End the call's pauses and tries, and cut the connections that wait for an answer to it."""
        with self._lock:
            call.set()
            for reference in self._waiting.keyrefs():  # no iteration, which a `keep` in it would break
                waiting = reference()
                if waiting is not None and self._waiting.get(waiting) is call:
                    _cut(waiting)

    def cut_at_end(self, waiting: socket.socket) -> None:
        """The socket is cut when the call of the calling thread ends, or at once where it has ended."""
        with self._lock:
            self._waiting[waiting] = self._call
            if self.is_set():
                _cut(waiting)

    def keep(self, waiting: socket.socket) -> None:
        """The socket waits no more, and is not cut."""
        with self._lock:
            self._waiting.pop(waiting, None)

    def is_set(self) -> bool:
        """Whether the call of the calling thread is over."""
        return self._call.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the call of the calling thread is over, but no longer than so many seconds."""
        return self._call.wait(timeout)

    @property
    def _call(self) -> threading.Event:
        call: threading.Event = getattr(self._own, "call", self._endless)
        return call


def _cut(waiting: socket.socket) -> None:
    with suppress(OSError, AttributeError):  # closed already; urllib3's TLS within TLS cannot be shut down
        waiting.shutdown(socket.SHUT_RDWR)
