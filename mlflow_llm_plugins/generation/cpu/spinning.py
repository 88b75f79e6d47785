"""Whether the worker threads of a step spin between operations: as long as nothing else wants their CPUs.

Threads that spin always want to run. So while all goes well a step takes as many CPU seconds as wall seconds times
threads, and what is missing was taken by another process, to whom workers that sleep lose far less time. What other
threads of this process take cannot be told apart from the step's own.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

_logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.1  # of steps
_TAKEN_CPUS = 0.25  # by others: more, twice in a row, is a neighbour that works
_TAKEN_SHARE = 0.05  # of all threads; many take longer to wake when a step begins
_FIRST_PAUSE_S = 2.0  # of sleeping, then another try; each one in vain doubles it
_LONGEST_PAUSE_S = 60.0
_CALM_S = 60.0  # of spinning, after which a neighbour is a new one


class Now(NamedTuple):
    """A moment, in seconds of the wall clock and of the process' CPU time."""

    wall: float
    cpu: float

    @classmethod
    def read(cls) -> Now:
        """This moment."""
        return cls(time.perf_counter(), time.process_time())


class IdleWorkers(Protocol):
    """Those of `openmp`: while they are there, the others sleep."""

    def start(self) -> None:
        """Have them."""

    def stop(self) -> None:
        """End them."""


class Spinning:
    """Watches steps and lets workers spin or sleep; called by the generation thread, but for `begin`."""

    def __init__(self, idle_workers: IdleWorkers, threads: int, now: Callable[[], Now] = Now.read) -> None:
        """Workers sleep until `begin`, so idle ones are there; `threads` is how many a step runs on."""
        self._idle_workers = idle_workers
        self._threads = threads
        self._tolerated = max(_TAKEN_CPUS, _TAKEN_SHARE * threads)
        self._now = now
        self._pause_s = math.inf
        self._sleeps, self._suspected = True, False
        self._changed = self._step = now()
        self._wall = self._cpu = 0.0

    def begin(self) -> None:
        """Let the workers spin; to be called before the steps that count, between two of them."""
        self._pause_s = 0.0

    def before_step(self) -> bool:
        """Whether workers spin in the step that comes."""
        self._step = self._now()
        if self._sleeps and self._step.wall - self._changed.wall >= self._pause_s:
            self._idle_workers.stop()
            self._change(sleeps=False)
        return not self._sleeps

    def after_step(self) -> None:
        """Look at what the step got."""
        if self._sleeps:
            return
        now = self._now()
        self._wall += now.wall - self._step.wall
        self._cpu += now.cpu - self._step.cpu
        if self._wall < _LOOK_EVERY_S:
            return
        taken = self._threads - self._cpu / self._wall
        self._wall = self._cpu = 0.0
        again, self._suspected = self._suspected, taken > self._tolerated
        if again and self._suspected:
            self._pause(now, taken)

    def _pause(self, now: Now, taken: float) -> None:
        if now.wall - self._changed.wall >= _CALM_S:
            self._pause_s = 0.0
        self._pause_s = min(max(2 * self._pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
        _logger.debug("Others use %.1f of %d CPUs; threads sleep for %.0f s.", taken, self._threads, self._pause_s)
        self._idle_workers.start()
        self._change(sleeps=True)

    def _change(self, *, sleeps: bool) -> None:
        self._sleeps = sleeps
        self._changed = self._now()
        self._suspected = False
        self._wall = self._cpu = 0.0
