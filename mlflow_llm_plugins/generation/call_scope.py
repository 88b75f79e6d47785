"""What a call may do in the engine, and what it has there, for callers who cannot pass it through what is between."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import TypeVar

from mlflow_llm_plugins.errors import RequestCancelledError
from mlflow_llm_plugins.generation.engine import GenerationStream
from mlflow_llm_plugins.generation.requests import GenerationOutput, GenerationRequest

T = TypeVar("T")

_current: ContextVar[CallScope | None] = ContextVar("mlflow_llm_call_scope", default=None)


class CallScope:
    """Stands around a function: it limits requests, sees outputs and can end streams. Thread-safe."""

    def __init__(self) -> None:
        """Nothing is open, and nothing is limited."""
        self._streams: set[GenerationStream] = set()
        self._is_cancelled = False
        self._lock = threading.Lock()  # of both

    def run(self, call: Callable[[], T]) -> T:
        """Call a function that this scope stands around."""
        token = _current.set(self)
        try:
            return call()
        finally:
            _current.reset(token)

    def admit(self, requests: Sequence[GenerationRequest]) -> Sequence[GenerationRequest]:
        """The requests of a call as they may be made; raises where they may not."""
        return requests

    def window(self, wanted: int) -> int:
        """How many of `wanted` requests may be open at the same time."""
        return wanted

    def finished(self, outputs: Sequence[GenerationOutput]) -> None:
        """All requests of a call have been answered."""

    def cancel(self) -> int:
        """End what is open, and whatever is opened from now on; how many are open."""
        with self._lock:
            self._is_cancelled = True
            streams = list(self._streams)
        for stream in streams:
            stream.cancel()
        return len(streams)

    def add(self, stream: GenerationStream) -> None:
        """Count a stream in until it ends."""
        with self._lock:
            self._streams.add(stream)
            is_cancelled = self._is_cancelled
        stream.add_done_callback(lambda: self._discard(stream))
        if is_cancelled:
            stream.cancel()

    def raise_if_cancelled(self) -> None:
        """Stop a call that has no stream to be ended by.

        Raises:
            RequestCancelledError: `cancel` was called.
        """
        if self._is_cancelled:
            raise RequestCancelledError("The request was cancelled.")

    def _discard(self, stream: GenerationStream) -> None:
        with self._lock:
            self._streams.discard(stream)


_NO_LIMITS = CallScope()  # never cancelled, and holds nothing: `add` is for scopes that a caller made


def current_scope() -> CallScope:
    """The scope that the caller runs in; one without limits where there is none."""
    return _current.get() or _NO_LIMITS


def in_current_scope(stream: GenerationStream) -> GenerationStream:
    """The stream, which the scope that the caller runs in may cancel from now on."""
    scope = _current.get()
    if scope is not None:
        scope.add(stream)
    return stream
