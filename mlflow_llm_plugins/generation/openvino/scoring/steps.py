"""In which forward passes a subtree is computed: its sequences side by side, from where they part to where they end.

Rows advance together, all from the same depth: keys and values are then never padded in the middle, which sliding
windows would count. At a cut rows branch, end or go on; between two cuts a token that rows share is computed in each,
and rows that end are padded. Each cut costs a pass and a copy of all keys and values, so where to cut is a sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mlflow_llm_plugins.generation.scoring.choice_tree import ChoiceTree, Subtree, Want

# In tokens of a long pass; measured with 40M parameters in float32, where both are dearest.
_PASS_COST = 10.0  # of a pass, besides its tokens
_COPY_COST = 1 / 128  # of a token's keys and values


@dataclass(frozen=True, slots=True)
class Wanted:
    """A token that is read in a step."""

    row: int
    column: int
    want: Want


@dataclass(frozen=True, slots=True)
class Step:
    """Tokens of one forward pass."""

    ids: list[list[int]]  # [rows, tokens], padded to the right
    parents: list[int] | None  # of each row among the rows of the step before; None: the same rows go on
    wanted: list[Wanted]


def steps(tree: ChoiceTree, subtree: Subtree, depth: int, max_tokens: int, end: int | None = None) -> Iterator[Step]:
    """The passes over a subtree in order, beginning with one row.

    Args:
        tree: What the subtree is of.
        subtree: All its sequences agree in their first `depth` tokens.
        depth: Tokens that have been computed.
        max_tokens: Of one pass, padding included; a pass has at least one token a row.
        end: The depth where to stop; None computes all.
    """
    part = _Part(tree, subtree)
    row_of = dict.fromkeys(part.indices, 0)
    for start, stop in pairwise(part.cuts(depth, max_tokens, end)):
        groups = part.rows(start, stop)
        parents: list[int] | None = [row_of[group[-1]] for group in groups]
        row_of = {index: row for row, group in enumerate(groups) for index in group}
        width = max(1, max_tokens // len(groups))
        for first in range(start, stop, width):
            yield part.step(groups, first, min(stop, first + width), parents)
            parents = None


class _Part:
    """The sequences of a subtree, in their order."""

    def __init__(self, tree: ChoiceTree, subtree: Subtree) -> None:
        self._tree = tree
        self.indices = range(subtree.first, subtree.end)
        self._lengths = np.array([len(tree.sequence(index)) for index in self.indices])
        self._agreed = np.array([tree.agreed(index) for index in self.indices])

    def cuts(self, depth: int, max_tokens: int, end: int | None) -> list[int]:
        """The depths, from `depth` to the end, between which passes cost least."""
        last = int(self._lengths.max()) if end is None else end
        inner = {int(at) for at in (*self._lengths, *self._agreed[1:]) if depth < at < last}
        depths = np.array([depth, *sorted(inner), last]) if depth < last else np.array([depth])
        best, before = np.zeros(len(depths)), np.zeros(len(depths), np.int64)
        best[1:] = np.inf
        for index, start in enumerate(depths[:-1]):
            total = best[index] + self._costs(int(start), depths[index + 1 :], max_tokens)
            better = total < best[index + 1 :]
            best[index + 1 :][better] = total[better]
            before[index + 1 :][better] = index
        return _backwards(depths.tolist(), before.tolist())

    def rows(self, start: int, stop: int) -> list[list[int]]:
        """Sequences that go beyond `start`, those together that one row stands for up to `stop`, the longest last."""
        groups: list[list[int]] = []
        agreed = stop
        for index, own in zip(self.indices, self._agreed.tolist(), strict=True):
            agreed = min(agreed, own)
            if len(self._tree.sequence(index)) <= start:
                continue
            if groups and agreed >= min(stop, len(self._tree.sequence(groups[-1][-1]))):
                groups[-1].append(index)
            else:
                groups.append([index])
            agreed = stop
        return groups

    def step(self, groups: Sequence[list[int]], start: int, stop: int, parents: list[int] | None) -> Step:
        """The pass over the columns `start` to `stop` of these rows."""
        ids = [self._tree.sequence(group[-1])[start:stop] for group in groups]
        width = max(len(row) for row in ids)
        padded = [[*row, *([0] * (width - len(row)))] for row in ids]
        wanted = [
            Wanted(row, want.position - start, want)
            for row, group in enumerate(groups)
            for index in group
            for want in self._tree.wants(index)
            if start <= want.position < stop
        ]
        return Step(padded, parents, wanted)

    def _costs(self, start: int, stops: NDArray[np.int64], max_tokens: int) -> NDArray[np.float64]:
        """Of going from `start` to each of `stops` without a cut."""
        parting = np.sort(self._partings(start))  # depth from which on a row is another one than its successor
        rows = np.searchsorted(parting, stops, side="left") + 1
        tokens = rows * (stops - start)
        costs: NDArray[np.float64] = tokens + _PASS_COST * np.ceil(tokens / max_tokens) + _COPY_COST * rows * start
        return costs

    def _partings(self, start: int) -> NDArray[np.int64]:
        """Where each sequence that goes beyond `start` parts from the next such one, unless it is a part of it."""
        going = np.flatnonzero(self._lengths > start)
        agreed = [self._agreed[one + 1 : other + 1].min() for one, other in pairwise(going)]
        partings = np.array(agreed, np.int64)
        return partings[partings < self._lengths[going[:-1]]]


def _backwards(depths: list[int], before: list[int]) -> list[int]:
    index = len(depths) - 1
    path = [index]
    while index:
        index = before[index]
        path.append(index)
    return [depths[index] for index in reversed(path)]
