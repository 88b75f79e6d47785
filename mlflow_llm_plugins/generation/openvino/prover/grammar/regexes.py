"""A Python regular expression as a grammar: exactly what `re.fullmatch` takes, or a refusal in words.

Reads Python's own parse of the pattern, so that nothing has another meaning here. What no grammar can say (looking
around, references to groups, boundaries) is refused by name.
"""

from __future__ import annotations

import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError, UnsupportedFeatureError
from mlflow_llm_plugins.generation.openvino.prover.grammar.characters import ALL, Characters
from mlflow_llm_plugins.generation.openvino.prover.grammar.expressions import (
    EMPTY,
    Expression,
    Grammar,
    OneOf,
    Repeat,
    characters,
    choice,
    repeat,
    sequence,
)

if sys.version_info >= (3, 11):
    from re import _parser as parser
else:
    import sre_parse as parser

Spelling = Callable[[Characters], Expression]  # how one character of a set is written in the answer

_FLAGS = {re.IGNORECASE: "(?i)", re.MULTILINE: "(?m)", re.LOCALE: "(?L)"}
_REFUSED = {
    "ASSERT": "looking ahead or behind",
    "ASSERT_NOT": "looking ahead or behind",
    "GROUPREF": "a reference to a group",
    "GROUPREF_EXISTS": "a condition on a group",
    "ATOMIC_GROUP": "an atomic group",
    "POSSESSIVE_REPEAT": "a possessive quantifier",
}
_STARTS = {"AT_BEGINNING", "AT_BEGINNING_STRING"}
_ENDS = {"AT_END", "AT_END_STRING"}


@dataclass(frozen=True, slots=True)
class Regex:
    """A pattern that has been parsed."""

    pattern: str
    parsed: Any  # Python's own: (operation, argument) pairs, `state.flags`
    is_schema: bool  # of a JSON schema: found anywhere in the text; in a dialect that is not Python's

    @staticmethod
    def parse(pattern: str, is_schema: bool = False) -> Regex:
        """Read a pattern.

        Raises:
            InvalidInputError: It is nested too deeply.
            UnsupportedFeatureError: It is no regular expression of Python.
        """
        try:
            return Regex(pattern, _parsed(pattern), is_schema)
        except (RecursionError, OverflowError) as error:
            raise InvalidInputError("The regex is nested too deeply, or has too large a number.") from error
        except FutureWarning as warning:
            raise _refusal(str(warning).lower()) from warning
        except re.error as error:
            raise UnsupportedFeatureError(f"The regex cannot be honoured: {error}.") from error

    def keeps_length(self, least: int, most: int | None) -> bool:
        """Whether the whole text has so many characters wherever the pattern is found in it."""
        if least == 0 and most is None:
            return True
        shortest, longest = self.parsed.getwidth()
        is_whole = _is_anchored(self.parsed, 0, _STARTS) and _is_anchored(self.parsed, -1, _ENDS)
        return bool(shortest >= least and (most is None or (is_whole and longest <= most)))

    def expression(self, grammar: Grammar, spelling: Spelling = characters) -> Expression:
        """What fits, rules of which go into the grammar.

        Raises:
            UnsupportedFeatureError: Names what it has that cannot be honoured.
        """
        for flag, name in _FLAGS.items():
            if self.parsed.state.flags & flag:
                raise _refusal(f"the flag {name}")
        try:
            return _Reader(self, grammar, spelling).read()
        except RecursionError as error:
            raise InvalidInputError("The regex is nested too deeply.") from error


_MAY_WARN = re.compile(r"\[\[|--|&&|~~|\|\|")
_parsing_strictly = threading.Lock()


def _parsed(pattern: str) -> Any:
    """Python's parse; its warning of a set within a set, which others have and Python may get, as an error."""
    if not _MAY_WARN.search(pattern):
        return parser.parse(pattern)
    with _parsing_strictly, warnings.catch_warnings():  # which is of the whole process, so only where it must be
        warnings.filterwarnings("error", "Possible (nested )?set", FutureWarning)
        return parser.parse(pattern)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a part stands, and the flags there."""

    is_first: bool  # nothing that has characters comes before it
    is_last: bool
    flags: int


class _Reader:
    """Turns the parse of one pattern into expressions."""

    def __init__(self, regex: Regex, grammar: Grammar, spelling: Spelling) -> None:
        self._regex = regex
        self._grammar = grammar
        self._spelling = spelling
        self._shared: dict[Characters, Expression] = {}  # sets that are large or come often, written once
        self._line_ends = Characters.of("\n\r\u2028\u2029" if regex.is_schema else "\n")
        self._operations: dict[str, Callable[[Any, _Place], Expression]] = {
            "LITERAL": lambda point, _: self._one(Characters.span(point, point), point),
            "NOT_LITERAL": lambda point, _: self._one(~Characters.span(point, point)),
            "ANY": lambda _, place: self._one(ALL if place.flags & re.DOTALL else ~self._line_ends),
            "IN": lambda items, place: self._one(self._set(items, place)),
            "BRANCH": self._branch,
            "SUBPATTERN": self._group,
            "MAX_REPEAT": self._repeat,
            "MIN_REPEAT": self._repeat,  # the shortest first: of the same texts
            "AT": self._anchor,
        }

    def read(self) -> Expression:
        flags = int(self._regex.parsed.state.flags)
        if not self._regex.is_schema:
            return self._items(self._regex.parsed, _Place(True, True, flags))
        return choice(self._found(list(branch), flags) for branch in _alternatives(self._regex.parsed))

    def _found(self, items: list[Any], flags: int) -> Expression:
        """Where it need not be the whole text: with anything before and after."""
        anchored_first, anchored_last = _is_anchored(items, 0, _STARTS), _is_anchored(items, -1, _ENDS)
        around = Repeat(self._one(ALL), 0, None)
        found = self._items(items, _Place(anchored_first, anchored_last, flags))
        return sequence([EMPTY if anchored_first else around, found, EMPTY if anchored_last else around])

    def _items(self, items: Iterable[Any], place: _Place) -> Expression:
        pairs = list(items)
        firsts = next((i for i, pair in enumerate(pairs) if not _is_anchor(pair, _STARTS)), len(pairs))
        lasts = next((i for i, pair in enumerate(reversed(pairs)) if not _is_anchor(pair, _ENDS)), len(pairs))
        return sequence(
            self._operation(
                operation,
                argument,
                _Place(place.is_first and i <= firsts, place.is_last and i >= len(pairs) - 1 - lasts, place.flags),
            )
            for i, (operation, argument) in enumerate(pairs)
        )

    def _operation(self, operation: Any, argument: Any, place: _Place) -> Expression:
        name = str(operation)
        if name not in self._operations:
            raise _refusal(_REFUSED.get(name, name.lower()))
        return self._operations[name](argument, place)

    def _branch(self, argument: Any, place: _Place) -> Expression:
        return choice(self._items(items, place) for items in argument[1])

    def _group(self, argument: Any, place: _Place) -> Expression:
        _, added, removed, items = argument
        for flag, name in _FLAGS.items():
            if added & flag:
                raise _refusal(f"the flag {name}")
        return self._items(items, _Place(place.is_first, place.is_last, (place.flags | added) & ~removed))

    def _repeat(self, argument: Any, place: _Place) -> Expression:
        least, most, items = argument
        part = self._items(items, _Place(False, False, place.flags))
        if isinstance(part, OneOf) and most != parser.MAXREPEAT and most > _FEW:
            part = self._rule(part.characters)  # xgrammar counts rules several times faster
        return repeat(part, int(least), None if most == parser.MAXREPEAT else int(most))

    def _anchor(self, where: Any, place: _Place) -> Expression:
        name = str(where)
        if (name in _STARTS and place.is_first) or (name in _ENDS and place.is_last):
            return EMPTY
        if name in _STARTS | _ENDS:
            raise _refusal("an anchor in the middle")
        raise _refusal(r"a boundary (\b or \B)")

    def _set(self, items: Iterable[Any], place: _Place) -> Characters:
        allowed, negated = Characters(()), False
        for operation, argument in items:
            name = str(operation)
            if name == "NEGATE":
                negated = True
            elif name == "LITERAL":
                allowed |= Characters.span(argument, argument)
            elif name == "RANGE":
                allowed |= Characters.span(*argument)
            else:
                allowed |= self._category(str(argument), negated, place)
        return ~allowed if negated else allowed

    def _category(self, name: str, within_negated: bool, place: _Place) -> Characters:
        r"""What a class such as \d stands for: in a schema whatever ASCII's and Unicode's agree on."""
        kind, is_negated = name.removeprefix("CATEGORY_").removeprefix("NOT_"), "_NOT_" in name
        ascii_only = bool(place.flags & re.ASCII)
        if self._regex.is_schema:
            ascii_only = is_negated == within_negated
        found = _category(kind, ascii_only)
        return ~found if is_negated else found

    def _one(self, allowed: Characters, point: int | None = None) -> Expression:
        if point is not None and not allowed:
            raise _refusal(f"the character {chr(point)!r}")
        if len(allowed.ranges) <= _FEW:
            return self._spelling(allowed)
        return self._rule(allowed)

    def _rule(self, allowed: Characters) -> Expression:
        if allowed not in self._shared:
            self._shared[allowed] = self._grammar.new_rule(self._spelling(allowed))
        return self._shared[allowed]


_FEW = 8  # ranges, or times


@cache
def _category(kind: str, ascii_only: bool) -> Characters:
    """The characters of "DIGIT", "SPACE" or "WORD", as Python's `re` has them; a fifth of a second the first time."""
    belongs: Callable[[str], bool] = {"DIGIT": str.isdecimal, "SPACE": str.isspace, "WORD": _is_word}[kind]
    points = range(128 if ascii_only else sys.maxunicode + 1)
    ranges: list[tuple[int, int]] = []
    for point in points:
        if not belongs(chr(point)):
            continue
        if ranges and ranges[-1][1] == point - 1:
            ranges[-1] = ranges[-1][0], point
        else:
            ranges.append((point, point))
    found = Characters(())
    return found | Characters(tuple(ranges))


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def _alternatives(parsed: Any) -> list[Any]:
    """The branches of a pattern that is nothing but these."""
    if len(parsed) == 1 and str(parsed[0][0]) == "BRANCH":
        return list(parsed[0][1][1])
    return [parsed]


def _is_anchored(items: Any, end: int, names: set[str]) -> bool:
    """Whether there is an anchor at one end, 0 or -1, whichever branch is taken."""
    if not items:
        return False
    name, argument = str(items[end][0]), items[end][1]
    if name == "BRANCH":
        return all(_is_anchored(branch, end, names) for branch in argument[1])
    if name == "SUBPATTERN":
        return _is_anchored(argument[3], end, names)
    return _is_anchor(items[end], names)


def _is_anchor(pair: Any, names: set[str]) -> bool:
    return str(pair[0]) == "AT" and str(pair[1]) in names


def _refusal(what: str) -> UnsupportedFeatureError:
    return UnsupportedFeatureError(
        f"The regex cannot be honoured: {what} is not supported by the engine 'openvino'. Write it in another way."
    )
