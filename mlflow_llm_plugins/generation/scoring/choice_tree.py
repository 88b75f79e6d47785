"""Prompts and their choices as one tree of tokens, in which what they share stands once.

The tree is never built: token sequences in sorted order are its leaves, a run of neighbours is a subtree, and what a
sequence shares with the one before it tells which of its tokens are its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ChoiceRow:
    """One prompt and its choices, split where all of them still agree."""

    stem: list[int]
    tails: list[list[int]]  # what is scored, one for each choice, never empty


@dataclass(frozen=True, slots=True)
class Subtree:
    """A run of sequences, `first` to `end - 1`, that agree at least in the tokens that were computed before them."""

    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens of one sequence that stand side by side in a flat subtree."""

    start: int
    end: int
    before: list[int]  # columns of the tokens that precede them in their sequence


@dataclass(slots=True)
class FlatSubtree:
    """The tokens of a subtree, each once, a token behind those that precede it in its sequence."""

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)  # where a wanted token is predicted
    targets: list[int] = field(default_factory=list)  # the wanted token
    choices: list[int] = field(default_factory=list)  # the choice that it belongs to


@dataclass(frozen=True, slots=True)
class Want:
    """A token whose log-probability is wanted."""

    position: int  # of the token that predicts the target
    target: int
    choice: int


class ChoiceTree:
    """The tokens to compute for some rows: each stem with each tail, less the tails' last tokens."""

    def __init__(self, rows: Sequence[ChoiceRow]) -> None:
        """Sort the sequences; choices are numbered through all rows."""
        wants = _wants(rows)
        self._sequences = sorted(wants)
        self._wants = [wants[sequence] for sequence in self._sequences]
        neighbours = zip(self._sequences, self._sequences[1:], strict=False)
        self._agreed = [0, *(common_length(before, after) for before, after in neighbours)]
        self.whole = Subtree(0, len(self._sequences))
        shortest = min(len(row.stem) for row in rows)
        self.beginning = self.sequence_until(self.whole, min(self.common(self.whole), shortest - 1))

    def sequence(self, index: int) -> tuple[int, ...]:
        """All tokens of one sequence."""
        return self._sequences[index]

    def agreed(self, index: int) -> int:
        """Tokens in which a sequence agrees with the one before it; 0 for the first."""
        return self._agreed[index]

    def wants(self, index: int) -> Sequence[Want]:
        """What is read along a sequence; of each choice in the order of its tokens."""
        return self._wants[index]

    def sequence_until(self, subtree: Subtree, end: int) -> tuple[int, ...]:
        """The first `end` tokens of the subtree's first sequence."""
        return self._sequences[subtree.first][:end]

    def common(self, subtree: Subtree) -> int:
        """Tokens in which all sequences of the subtree agree."""
        agreed = self._agreed[subtree.first + 1 : subtree.end]
        return min(agreed, default=len(self._sequences[subtree.first]))

    def size(self, subtree: Subtree, depth: int) -> int:
        """Tokens of the subtree behind the first `depth`, each counted once."""
        own = len(self._sequences[subtree.first]) - depth
        later = range(subtree.first + 1, subtree.end)
        return own + sum(len(self._sequences[i]) - self._agreed[i] for i in later)

    def children(self, subtree: Subtree) -> Iterator[Subtree]:
        """The subtrees that begin where the subtree's sequences part; a sequence that ends there has none."""
        depth = self.common(subtree)
        starts = [i for i in range(subtree.first, subtree.end) if i == subtree.first or self._agreed[i] == depth]
        for start, end in zip(starts, [*starts[1:], subtree.end], strict=True):
            if len(self._sequences[start]) > depth:
                yield Subtree(start, end)

    def flat(self, subtree: Subtree, depth: int, end: int | None = None) -> FlatSubtree:
        """The tokens from position `depth` up to `end` (None: all), and what is read at them."""
        flat = FlatSubtree()
        path: list[int] = []  # columns of the current sequence's tokens, from `depth`
        for index in range(subtree.first, subtree.end):
            sequence = self._sequences[index][:end]
            path = path[: self._agreed[index] - depth] if index > subtree.first else path
            start, position = len(flat.ids), depth + len(path)
            flat.ids += sequence[position:]
            if len(flat.ids) > start:
                flat.positions += range(position, len(sequence))
                flat.segments.append(Segment(start, len(flat.ids), path))
                path = [*path, *range(start, len(flat.ids))]
            self._read(flat, index, path, depth)
        return flat

    def _read(self, flat: FlatSubtree, index: int, path: list[int], depth: int) -> None:
        for want in self._wants[index]:
            if depth <= want.position < depth + len(path):
                flat.columns.append(path[want.position - depth])
                flat.targets.append(want.target)
                flat.choices.append(want.choice)


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens in which two sequences agree from their beginning."""
    for length, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return length
    return min(len(one), len(other))


def common_prefix(sequences: Sequence[list[int]]) -> list[int]:
    """The longest beginning that all sequences share."""
    lowest, highest = min(sequences), max(sequences)  # what these two share, all share
    return lowest[: common_length(lowest, highest)]


def _wants(rows: Sequence[ChoiceRow]) -> dict[tuple[int, ...], list[Want]]:
    """What is read along each sequence."""
    wants: dict[tuple[int, ...], list[Want]] = {}
    numbered = enumerate((row.stem, tail) for row in rows for tail in row.tails)
    for choice, (stem, tail) in numbered:
        along = wants.setdefault((*stem, *tail[:-1]), [])
        along += [Want(len(stem) - 1 + i, target, choice) for i, target in enumerate(tail)]
    return wants
