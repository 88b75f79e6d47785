"""Key-value caches of the beginnings of recent calls, so that the same rubric or state is not computed again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from mlflow_llm_plugins.errors import EngineUnavailableError
from mlflow_llm_plugins.generation.scoring.choice_tree import common_length

_MAX_ENTRIES = 4
_MIN_TOKENS = 32  # less is computed again about as fast as it is looked up


Cache = TypeVar("Cache")  # keys and values of one text, whatever holds them


@dataclass(frozen=True, slots=True)
class _Entry(Generic[Cache]):
    ids: tuple[int, ...]
    cache: Cache


class PrefixCaches(Generic[Cache]):
    """A few caches, the most recently used ones; may be used from any thread.

    The tensors of a kept cache are never changed: whoever takes it gets a branch of it.
    """

    def __init__(self, max_tokens: int, first: Callable[[Cache, int], Cache], copy: Callable[[Cache], Cache]) -> None:
        """Keep nothing yet.

        Args:
            max_tokens: Tokens of all entries together; 0 keeps nothing.
            first: A branch of a cache with its first tokens only, so many of them; it may share memory.
            copy: The same cache in memory of its own.
        """
        self._max_tokens = max_tokens
        self._first = first
        self._copy = copy
        self._entries: list[_Entry[Cache]] = []  # the most recently used one last
        self._lock = threading.Lock()
        self._is_closed = False

    @property
    def tokens(self) -> int:
        """Tokens that are kept now."""
        with self._lock:
            return self._count()

    def longest(self, ids: Sequence[int]) -> Cache | None:
        """A branch of the cache that has most of the beginning of `ids`, cropped to it; None where it is short."""
        with self._lock:
            entry, length = self._nearest(ids)
            if entry is None:
                return None
            self._entries.remove(entry)
            self._entries.append(entry)
        return self._first(entry.cache, length)

    def keep(self, ids: Sequence[int], cache: Cache) -> None:
        """Keep a copy of what the cache holds of `ids`, its first tokens."""
        ids = tuple(ids[: self._max_tokens])
        with self._lock:
            nearest, length = self._nearest(ids)
            if len(ids) < _MIN_TOKENS or length == len(ids):
                return
            # Rows under one rubric come one a call: the last one stands for all, or they would push others out.
            if nearest is not None and 2 * length >= len(nearest.ids):
                self._entries.remove(nearest)
            self._entries.append(_Entry(ids, self._copy(self._first(cache, len(ids)))))
            while len(self._entries) > _MAX_ENTRIES or self._count() > self._max_tokens:
                del self._entries[0]

    def close(self) -> None:
        """Free all; whoever scores with them stops at its next pass."""
        with self._lock:
            self._is_closed = True
            self._max_tokens = 0
            self._entries.clear()

    def raise_if_closed(self) -> None:
        """Stop a call that runs.

        Raises:
            EngineUnavailableError: `close` was called.
        """
        if self._is_closed:
            raise EngineUnavailableError("The engine was closed.")

    def _count(self) -> int:
        return sum(len(entry.ids) for entry in self._entries)

    def _nearest(self, ids: Sequence[int]) -> tuple[_Entry[Cache] | None, int]:
        """The entry that shares most tokens with `ids`, and how many."""
        shared = [(common_length(entry.ids, ids), index) for index, entry in enumerate(self._entries)]
        length, index = max(shared, default=(0, -1))
        return (self._entries[index], length) if length >= _MIN_TOKENS else (None, 0)
