"""Sets of characters."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

Range = tuple[int, int]  # first and last code point


@dataclass(frozen=True)
class Characters:
    """Code points as ranges that are in order, apart from one another, and within what an answer can have.

    That is all of Unicode but surrogates, which no UTF-8 text has, and NUL, which ends a text inside xgrammar.
    """

    ranges: tuple[Range, ...]

    @staticmethod
    def span(first: int, last: int) -> Characters:
        """All from one code point to another, both included."""
        return _normal([(first, last)])

    @staticmethod
    def of(text: str) -> Characters:
        """The characters of a text."""
        return _normal([(ord(character), ord(character)) for character in text])

    def __or__(self, other: Characters) -> Characters:
        """Those of either."""
        return _normal([*self.ranges, *other.ranges])

    def __invert__(self) -> Characters:
        """All others."""
        edges = [-1, *(point for first, last in self.ranges for point in (first, last)), _LAST + 1]
        return _normal([(edges[i] + 1, edges[i + 1] - 1) for i in range(0, len(edges), 2)])

    def __and__(self, other: Characters) -> Characters:
        """Those of both."""
        return ~(~self | ~other)

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self.ranges)

    @cached_property
    def only(self) -> str | None:
        """The one character that there is, where there is but one."""
        if len(self.ranges) == 1 and self.ranges[0][0] == self.ranges[0][1]:
            return chr(self.ranges[0][0])
        return None


_LAST = 0x10FFFF
_TEXT: tuple[Range, ...] = ((0x1, 0xD7FF), (0xE000, _LAST))


def _normal(ranges: list[Range]) -> Characters:
    """In order, without overlaps, within `_TEXT`."""
    inside = sorted((max(a, first), min(b, last)) for a, b in ranges for first, last in _TEXT)
    merged: list[Range] = []
    for first, last in inside:
        if first > last:
            continue
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(last, merged[-1][1])
        else:
            merged.append((first, last))
    return Characters(tuple(merged))


ALL = _normal([(0, _LAST)])
