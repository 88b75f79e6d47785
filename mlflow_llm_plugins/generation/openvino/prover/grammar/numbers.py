"""JSON numbers between two bounds.

Without a bound an integer has at most 18 digits, and another number at most 15 before and after its point: a weak
model would go on for ever, and neither a float nor a database could hold what it wrote.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction

from mlflow_llm_plugins.generation.openvino.prover.grammar.characters import Characters
from mlflow_llm_plugins.generation.openvino.prover.grammar.expressions import (
    Expression,
    Text,
    characters,
    choice,
    repeat,
    sequence,
)

LARGEST_INTEGER = 10**18 - 1
LARGEST_NUMBER = 10**15 - 1
_FRACTION_DIGITS = 6  # after the point, where there are bounds; more if these have more
_MOST_FRACTION_DIGITS = 15

_Digits = tuple[tuple[int, int], ...]  # code points: for each place the lowest and the highest


def integers(low: Fraction | None, high: Fraction | None) -> Expression:
    """Whole numbers from `low` to `high`, both included; None: no bound."""
    if low is None and high is None:
        return _ANY_INTEGER
    lowest = -LARGEST_INTEGER if low is None else max(_ceiling(low), -LARGEST_INTEGER)
    highest = LARGEST_INTEGER if high is None else min(_floor(high), LARGEST_INTEGER)
    return _factored(_between(lowest, highest, 0))


def numbers(
    low: Fraction | None, high: Fraction | None, *, without_low: bool = False, without_high: bool = False
) -> Expression:
    """Numbers from `low` to `high`; None: no bound.

    Args:
        low: The lower bound.
        high: The upper bound.
        without_low: The lower bound itself is not allowed.
        without_high: The upper bound itself is not allowed.
    """
    if low is None and high is None:
        return _ANY
    lower = Fraction(-LARGEST_NUMBER) if low is None else max(low, Fraction(-LARGEST_NUMBER))
    upper = Fraction(LARGEST_NUMBER) if high is None else min(high, Fraction(LARGEST_NUMBER))
    places = max(_FRACTION_DIGITS, *(_places(bound) for bound in (low, high) if bound is not None))
    texts: list[_Digits] = []
    for digits in range(min(places, _MOST_FRACTION_DIGITS) + 1):
        lowest, highest = _ceiling(lower * 10**digits), _floor(upper * 10**digits)
        lowest += without_low and lowest == lower * 10**digits
        highest -= without_high and highest == upper * 10**digits
        texts += _between(lowest, highest, digits)
    return _factored(texts)


def _between(low: int, high: int, places: int) -> Iterator[_Digits]:
    """Whole numbers in units of the last of so many digits after the point."""
    if low < 0:
        for digits in _spelt(max(1, -high), -low, places):
            yield ((ord("-"), ord("-")), *digits)
    if high >= 0:
        yield from _spelt(max(0, low), high, places)


def _factored(texts: Iterable[_Digits]) -> Expression:
    """Digits and points in a row, told apart by their first one.

    The xgrammar of openvino-genai 2026.4.1 mixes up options that begin alike.
    """
    endings: dict[int, set[_Digits]] = {}
    may_end = False
    for text in texts:
        may_end |= not text
        for first in range(text[0][0], text[0][1] + 1) if text else ():
            endings.setdefault(first, set()).add(text[1:])
    alike: dict[frozenset[_Digits], list[int]] = {}
    for first, rests in endings.items():
        alike.setdefault(frozenset(rests), []).append(first)
    options = [
        sequence([characters(Characters.of("".join(map(chr, firsts)))), _factored(sorted(rests))])
        for rests, firsts in alike.items()
    ]
    return choice([Text("")] * may_end + options)


def _spelt(low: int, high: int, places: int) -> Iterator[_Digits]:
    """From `low` to `high`, none of them negative, without a zero in front that is not alone there."""
    shortest = places + 1
    point: _Digits = ((ord("."), ord(".")),) if places else ()
    for width in range(max(shortest, len(str(low))), max(shortest, len(str(high))) + 1):
        first = max(low, 0 if width == shortest else 10 ** (width - 1))
        last = min(high, 10**width - 1)
        if first <= last:
            for digits in _ranges(str(first).zfill(width), str(last).zfill(width)):
                yield (*digits[: width - places], *point, *digits[width - places :])


def _ranges(first: str, last: str) -> list[_Digits]:
    """What the digits of each place may be, for all numbers from one to another of as many digits."""
    if not first:
        return [()]
    if first[0] == last[0]:
        return [(_digit(first[0], last[0]), *rest) for rest in _ranges(first[1:], last[1:])]
    zeros, nines = "0" * len(first[1:]), "9" * len(first[1:])
    low, high, found = int(first[0]), int(last[0]), []
    if first[1:] != zeros:
        found += [(_digit(low, low), *rest) for rest in _ranges(first[1:], nines)]
        low += 1
    if last[1:] != nines:
        found += [(_digit(high, high), *rest) for rest in _ranges(zeros, last[1:])]
        high -= 1
    if low <= high:
        found.append((_digit(low, high), *(_digit(0, 9),) * len(zeros)))
    return found


def _digit(low: str | int, high: str | int) -> tuple[int, int]:
    return ord("0") + int(low), ord("0") + int(high)


def _ceiling(value: Fraction) -> int:
    return -(-value.numerator // value.denominator)


def _floor(value: Fraction) -> int:
    return value.numerator // value.denominator


def _places(bound: Fraction) -> int:
    """Digits that it has after the point."""
    digits, rest = 0, bound
    while rest.denominator != 1 and digits < _MOST_FRACTION_DIGITS:
        digits, rest = digits + 1, rest * 10
    return digits


_DIGIT = characters(Characters.span(ord("0"), ord("9")))
_FIRST_DIGIT = characters(Characters.span(ord("1"), ord("9")))
_SIGN = characters(Characters.of("+-"))
_ANY_INTEGER = choice([Text("0"), sequence([repeat(Text("-"), 0, 1), _FIRST_DIGIT, repeat(_DIGIT, 0, 17)])])
_WHOLE = choice([Text("0"), sequence([_FIRST_DIGIT, repeat(_DIGIT, 0, 14)])])
_FRACTION = repeat(sequence([Text("."), repeat(_DIGIT, 1, 15)]), 0, 1)
_EXPONENT = repeat(sequence([characters(Characters.of("eE")), repeat(_SIGN, 0, 1), repeat(_DIGIT, 1, 2)]), 0, 1)
_ANY = sequence([repeat(Text("-"), 0, 1), _WHOLE, _FRACTION, _EXPONENT])
