"""How many answers a server lets be open, all requests together."""

from __future__ import annotations

import threading

from mlflow_llm_plugins.errors import QueueFullError
from mlflow_llm_plugins.serving.settings import variable


class Slots:
    """A bounded number of slots; may be used from any thread."""

    def __init__(self, limit: int | None) -> None:
        """All are free; None: there is no bound but the engine's."""
        self._limit = limit
        self._taken = 0
        self._lock = threading.Lock()  # of _taken

    def take(self, wanted: int) -> int:
        """Take as many as are wanted and free, at least one; whoever takes gives them back.

        Raises:
            QueueFullError: None is free.
        """
        with self._lock:
            free = wanted if self._limit is None else min(wanted, self._limit - self._taken)
            if free < 1:
                raise QueueFullError(
                    f"{self._taken} answers are open, as many as {variable('max_queue_size')} allows. Try again later."
                )
            self._taken += free
            return free

    def give_back(self, slots: int) -> None:
        """Free them."""
        with self._lock:
            self._taken -= slots
