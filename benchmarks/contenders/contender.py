"""What a contender is given, and what it tells: when its tokens came."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from benchmarks.loads import Load
from benchmarks.models import Shape

LATE_AFTER = 20  # tokens of every other stream
PATIENCE_S = 1800.0  # whoever runs us has a shorter deadline
SHORTEST_CONTEXT = 512  # the engine's own check at load needs some room


class Tick(NamedTuple):
    """A moment: wall clock and CPU time of the process, seconds."""

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> Tick:
        return cls(time.perf_counter(), time.process_time())


@dataclass
class Trace:
    """What happened when, a list entry for each request; an engine may leave out tokens that nobody watches."""

    tokens: list[list[Tick]]
    ends: list[Tick | None]
    started: Tick = field(default_factory=Tick.now)
    arrived: Tick | None = None  # the late request

    @classmethod
    def of(cls, load: Load) -> Trace:
        return cls([[] for _ in load.lengths], [None] * len(load.lengths))


@dataclass(frozen=True)
class Task:
    """What a contender is opened for."""

    shape: Shape
    device: str
    load: Load
    options: dict[str, Any]  # of the contender
    folder: Path  # its own, for files


class Contender(Protocol):
    def run(self, load: Load, prompts: list[list[int]], watched: Sequence[int]) -> Trace:
        """Do all of the load and time at least the tokens of the watched requests."""

    def close(self) -> None: ...


class Watch:
    """Notes tokens and ends, from any thread."""

    def __init__(self, load: Load) -> None:
        self.trace = Trace.of(load)
        self._decoding = threading.Semaphore(0)
        self._others = len(load.lengths) - 1

    def token(self, index: int) -> None:
        ticks = self.trace.tokens[index]
        ticks.append(Tick.now())
        if len(ticks) == LATE_AFTER:
            self._decoding.release()

    def end(self, index: int) -> None:
        self.trace.ends[index] = Tick.now()

    def arrival(self) -> None:
        """Wait until all other requests decode, and note the time."""
        deadline = time.monotonic() + PATIENCE_S
        for _ in range(self._others):
            if not self._decoding.acquire(timeout=max(0.0, deadline - time.monotonic())):
                raise TimeoutError(f"The streams have no {LATE_AFTER} tokens after {PATIENCE_S:.0f} s.")
        self.trace.arrived = Tick.now()
