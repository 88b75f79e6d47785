"""The rows that are asked one at a time, and the one before them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mlflow_llm_plugins.evaluation.predictions.failures import attempt
from mlflow_llm_plugins.evaluation.predictions.prediction import Prediction

T = TypeVar("T")

_WARM_UPS = 3  # a row that cannot be answered warms nothing up


@dataclass(frozen=True, slots=True)
class Sample:
    """Numbers of rows."""

    rows: tuple[int, ...]  # in the order of the data
    before: tuple[int, ...]  # to warm up with; not of `rows` where there are others

    @classmethod
    def of(cls, total: int, size: int, seed: int) -> Sample:
        """A random sample without repetition; the same for the same arguments."""
        order = random.Random(seed).sample(range(total), total)
        rows, rest = order[:size], order[size:]
        # An answered row leaves its prompt in caches of engines and servers, so another one comes first.
        return cls(tuple(sorted(rows)), tuple((rest or rows)[:_WARM_UPS]))

    def warm_up(self, ask: Callable[[int], Prediction]) -> bool:
        """Ask one row after the other until one is answered; whether one was."""
        return any(attempt(lambda row=row: ask(row), row).error is None for row in self.before)  # type: ignore[misc]

    def spread(self, values: Sequence[T], total: int) -> list[T | None]:
        """Values of the sampled rows in their places among all rows."""
        found = dict(zip(self.rows, values, strict=True))
        return [found.get(row) for row in range(total)]
