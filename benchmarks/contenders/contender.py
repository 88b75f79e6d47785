"""What a contender is given, and what it tells: when its tokens came."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import psutil

from benchmarks.contenders.reads import Reads
from benchmarks.loads import Load
from benchmarks.models import SHAPES, Shape

LATE_AFTER = 20  # tokens of every other stream
PATIENCE_S = 1800.0  # whoever runs us has a shorter deadline
SHORTEST_CONTEXT = 512  # the engine's own check at load needs some room


class Tick(NamedTuple):
    """A moment: wall clock and CPU time of the process and the children it works with, seconds."""

    wall: float
    cpu: float

    @classmethod
    def now(cls, children: Sequence[int] = ()) -> Tick:
        """The time by both clocks.

        Args:
            children: Pids of processes whose CPU time counts, too.
        """
        cpu = time.process_time() + sum(map(cpu_time_of, children))
        return cls(time.perf_counter(), cpu)


def cpu_time_of(pid: int) -> float:
    """CPU seconds of another process so far.

    On Linux by the clock that the system has of each process, numbered as clock_getcpuclockid(3) does it: one call
    that resolves nanoseconds, where /proc/PID/stat has hundredths of a second.
    """
    if sys.platform != "linux":
        times = psutil.Process(pid).cpu_times()
        return times.user + times.system
    per_process, nanoseconds = 3, 2
    return time.clock_gettime(~pid << per_process | nanoseconds)


@dataclass
class Trace:
    """What happened when, a list entry for each request; an engine may leave out tokens that nobody watches."""

    tokens: list[list[Tick]]
    ends: list[Tick | None]
    started: Tick = field(default_factory=Tick.now)
    arrived: Tick | None = None  # the late request

    @classmethod
    def of(cls, load: Load, children: Sequence[int] = ()) -> Trace:
        requests = len(load.lengths)
        return cls([[] for _ in range(requests)], [None] * requests, Tick.now(children))


@dataclass(frozen=True)
class Task:
    """What a contender is opened for."""

    model: str  # a key of SHAPES
    device: str
    load: Load
    options: dict[str, Any]  # of the contender
    folder: Path  # its own, for files
    shared: Path  # of all runs together, for what is made once

    @property
    def shape(self) -> Shape:
        return SHAPES[self.model]


class Contender(Protocol):
    @property
    def reads(self) -> Reads | None:
        """What a decode step must read; None: not known."""

    def run(self, load: Load, prompts: list[list[int]], watched: Sequence[int]) -> Trace:
        """Do all of the load and time at least the tokens of the watched requests."""

    def close(self) -> None: ...


class Watch:
    """Notes tokens and ends, from any thread."""

    def __init__(self, load: Load, children: Sequence[int] = ()) -> None:
        """Begin now.

        Args:
            load: What is watched.
            children: Pids of the processes that do the work, besides this one.
        """
        self._children = children
        self.trace = Trace.of(load, children)
        self._decoding = threading.Semaphore(0)
        self._others = len(load.lengths) - 1

    def token(self, index: int) -> None:
        ticks = self.trace.tokens[index]
        ticks.append(Tick.now(self._children))
        if len(ticks) == LATE_AFTER:
            self._decoding.release()

    def end(self, index: int) -> None:
        self.trace.ends[index] = Tick.now(self._children)

    def arrival(self) -> None:
        """Wait until all other requests decode, and note the time."""
        deadline = time.monotonic() + PATIENCE_S
        for _ in range(self._others):
            if not self._decoding.acquire(timeout=max(0.0, deadline - time.monotonic())):
                raise TimeoutError(f"The streams have no {LATE_AFTER} tokens after {PATIENCE_S:.0f} s.")
        self.trace.arrived = Tick.now(self._children)
