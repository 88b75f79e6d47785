"""Ending what a call has in the engine from outside of the call, for callers whose own caller may go away."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import TypeVar

from mlflow_llm_plugins.generation.engine import GenerationStream

T = TypeVar("T")

_current: ContextVar[CancelScope | None] = ContextVar("mlflow_llm_cancel_scope", default=None)


class CancelScope:
    """The streams that are opened while a function runs; `cancel` may be called from any thread."""

    def __init__(self) -> None:
        """Nothing is open."""
        self._streams: set[GenerationStream] = set()
        self._is_cancelled = False
        self._lock = threading.Lock()  # of both

    def __enter__(self) -> CancelScope:
        """Nothing happens until `run`."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing open."""
        self.cancel()

    def run(self, call: Callable[[], T]) -> T:
        """Call a function whose streams belong to this scope."""
        token = _current.set(self)
        try:
            return call()
        finally:
            _current.reset(token)

    def cancel(self) -> None:
        """End what is open, and whatever is opened from now on."""
        with self._lock:
            self._is_cancelled = True
            streams = list(self._streams)
        for stream in streams:
            stream.cancel()

    def add(self, stream: GenerationStream) -> None:
        """Count a stream in until it ends."""
        with self._lock:
            self._streams.add(stream)
            is_cancelled = self._is_cancelled
        stream.add_done_callback(lambda: self._discard(stream))
        if is_cancelled:
            stream.cancel()

    def _discard(self, stream: GenerationStream) -> None:
        with self._lock:
            self._streams.discard(stream)


def in_current_scope(stream: GenerationStream) -> GenerationStream:
    """The stream, which the scope that the caller runs in may cancel from now on."""
    scope = _current.get()
    if scope is not None:
        scope.add(stream)
    return stream
