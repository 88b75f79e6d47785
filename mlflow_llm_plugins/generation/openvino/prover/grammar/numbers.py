"""JSON numbers between two bounds.

Without a bound an integer has at most 18 digits, and another number at most 15 before and after its point: a weak
model would go on for ever, and neither a float nor a database could hold what it wrote.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import lru_cache

from mlflow_llm_plugins.generation.openvino.prover.grammar.characters import Characters
from mlflow_llm_plugins.generation.openvino.prover.grammar.expressions import (
    NOTHING,
    Expression,
    Text,
    characters,
    choice,
    repeat,
    sequence,
)

INTEGER_DIGITS = 18
NUMBER_DIGITS = 15  # before the point
LARGEST_INTEGER = 10**INTEGER_DIGITS - 1
LARGEST_NUMBER = 10**NUMBER_DIGITS - 1  # and any fraction
_FRACTION_DIGITS = 6  # after the point, where there are bounds; more if these have more
_MOST_FRACTION_DIGITS = 15

_RECENT = 256  # bounds

_Digits = tuple[tuple[int, int], ...]  # code points: for each place the lowest and the highest
_ANY_FRACTION = (-1, -1)  # the last place, where any digits after a point may follow, or none


def are_too_long(low: Fraction | None, high: Fraction | None, largest: int) -> bool:
    """Whether only numbers with more digits than `largest` are between two bounds."""
    return (low is not None and low >= largest + 1) or (high is not None and high <= -largest - 1)


@lru_cache(_RECENT)
def integers(low: Fraction | None, high: Fraction | None) -> Expression:
    """Whole numbers from `low` to `high`, both included; None: no bound."""
    if low is None and high is None:
        return _ANY_INTEGER
    lowest = -LARGEST_INTEGER if low is None else max(_ceiling(low), -LARGEST_INTEGER)
    highest = LARGEST_INTEGER if high is None else min(_floor(high), LARGEST_INTEGER)
    return _factored(_whole(lowest, highest))


@lru_cache(_RECENT)
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
    end = Fraction(LARGEST_NUMBER + 1)
    lower, without_low = (-end, True) if low is None or low <= -end else (low, without_low)
    upper, without_high = (end, True) if high is None or high >= end else (high, without_high)
    places = max(_FRACTION_DIGITS, *(_places(bound) for bound in (low, high) if bound is not None))
    texts: list[_Digits] = []
    if lower < 0:
        nearest, is_without = (Fraction(0), True) if upper >= 0 else (-upper, without_high)  # "-0" is never needed
        texts += (((ord("-"), ord("-")), *t) for t in _unsigned(nearest, -lower, is_without, without_low, places))
    if upper >= 0:
        nearest, is_without = (Fraction(0), False) if lower < 0 else (lower, without_low)
        texts += _unsigned(nearest, upper, is_without, without_high, places)
    return _factored(texts, sequence([Text("."), repeat(_DIGIT, 1, places)]))


def _unsigned(low: Fraction, high: Fraction, without_low: bool, without_high: bool, places: int) -> Iterator[_Digits]:
    """Numbers that are not negative: digit by digit only where a bound is near."""
    first = _ceiling(low) + (without_low and low.denominator == 1)
    last = _floor(high) - 1
    if first > last:
        yield from _exact(low, high, without_low, without_high, places)
        return
    if low < first:
        yield from _exact(low, Fraction(first), without_low, True, places)
    for digits in _spelt(first, last, 0):
        yield (*digits, _ANY_FRACTION)
    yield from _exact(Fraction(last + 1), high, False, without_high, places)


def _exact(low: Fraction, high: Fraction, without_low: bool, without_high: bool, places: int) -> Iterator[_Digits]:
    """The same, with none, one and up to so many digits after the point."""
    for digits in range(places + 1):
        lowest, highest = _ceiling(low * 10**digits), _floor(high * 10**digits)
        lowest += without_low and lowest == low * 10**digits
        highest -= without_high and highest == high * 10**digits
        yield from _spelt(lowest, highest, digits)


def _whole(low: int, high: int) -> Iterator[_Digits]:
    """Integers from `low` to `high`."""
    if low < 0:
        for digits in _spelt(max(1, -high), -low, 0):
            yield ((ord("-"), ord("-")), *digits)
    if high >= 0:
        yield from _spelt(max(0, low), high, 0)


def _factored(texts: Iterable[_Digits], fraction: Expression = NOTHING) -> Expression:
    """Digits and points in a row, told apart by their first one.

    The xgrammar of openvino-genai 2026.4.1 mixes up options that begin alike.
    """
    endings: dict[int, set[_Digits]] = {}
    options: list[Expression] = []
    for text in texts:
        if not text:
            options.append(Text(""))
        elif text[0] == _ANY_FRACTION:
            options += [Text(""), fraction]
        else:
            for first in range(text[0][0], text[0][1] + 1):
                endings.setdefault(first, set()).add(text[1:])
    alike: dict[frozenset[_Digits], list[int]] = {}
    for first, rests in endings.items():
        alike.setdefault(frozenset(rests), []).append(first)
    options += (
        sequence([characters(Characters.of("".join(map(chr, firsts)))), _factored(sorted(rests), fraction)])
        for rests, firsts in alike.items()
    )
    return choice(options)


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
