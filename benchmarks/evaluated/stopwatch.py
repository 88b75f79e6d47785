"""Seconds of a block on both clocks, and of calls that are inside it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from benchmarks.contenders.contender import Tick
from benchmarks.evaluated.job import CPU, WALL, Figures


@dataclass(slots=True)
class Stopwatch:
    """Adds up time, of all threads together on the second clock."""

    wall: float = 0.0
    cpu: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        started = Tick.now()
        try:
            yield
        finally:
            ended = Tick.now()
            self.wall += ended.wall - started.wall
            self.cpu += ended.cpu - started.cpu

    def figures(self) -> dict[str, float]:
        return {WALL: self.wall, CPU: self.cpu}


@dataclass(slots=True)
class Parts:
    """Stopwatches by the name of a part; parts must not be inside one another."""

    watches: dict[str, Stopwatch] = field(default_factory=lambda: defaultdict(Stopwatch))

    def timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed whenever it is called."""

        def timed(*arguments: Any, **keywords: Any) -> Any:
            with self.watches[part].running():
                return call(*arguments, **keywords)

        return timed

    @contextmanager
    def of_functions(self, parts: Mapping[str, tuple[tuple[Any, str], ...]]) -> Iterator[None]:
        """Time functions under the name by which a module or object looks them up: part -> (owner, name)."""
        with ExitStack() as patches:
            for part, places in parts.items():
                for owner, name in places:
                    patches.enter_context(patch.object(owner, name, self.timed(part, getattr(owner, name))))
            yield

    def figures(self, whole: Stopwatch) -> dict[str, Figures]:
        """Part -> its figures, and what is left of the whole."""
        found = {part: watch.figures() for part, watch in self.watches.items()}
        left = {name: value - sum(part[name] for part in found.values()) for name, value in whole.figures().items()}
        return {**found, "all else": left}
