"""The requests that an engine has open, waiting and generating: counted by us, bounded, and known to be empty."""

from __future__ import annotations

import threading

from mlflow_llm_plugins.errors import QueueFullError
from mlflow_llm_plugins.generation.stream import TokenStream


class OpenRequests:
    """A bounded set of streams; thread-safe."""

    def __init__(self, max_queue_size: int) -> None:
        """Begin empty; `max_queue_size` streams fit."""
        self._max_queue_size = max_queue_size
        self._streams: set[TokenStream] = set()
        self._changed = threading.Condition()  # of _streams

    def add(self, stream: TokenStream) -> None:
        """Count a stream in.

        Raises:
            QueueFullError: As many as allowed are open.
        """
        with self._changed:
            self.refuse_if_full()
            self._streams.add(stream)

    def refuse_if_full(self) -> None:
        """Raise what `add` would raise now."""
        open_now = len(self)
        if open_now >= self._max_queue_size:
            raise QueueFullError(
                f"{open_now} requests are open, as many as max_queue_size={self._max_queue_size} allows. "
                "Try again later."
            )

    def discard(self, stream: TokenStream) -> None:
        """Count a stream out; harmless when it is out already."""
        with self._changed:
            self._streams.discard(stream)
            if not self._streams:
                self._changed.notify_all()

    def all(self) -> list[TokenStream]:
        """Those that are open now."""
        with self._changed:
            return list(self._streams)

    def __len__(self) -> int:
        """How many are open now."""
        with self._changed:
            return len(self._streams)

    def wait_until_none(self, timeout_s: float) -> bool:
        """Wait for the last one to end; whether it did within `timeout_s` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._streams, timeout_s)
