r"""A grammar as xgrammar's EBNF.

Only what was tried with the xgrammar of openvino-genai 2026.4.1 is written: its negated classes stop at code point 127
with no more than a warning, some of its ranges beyond ASCII (U+0800 to U+D7FF) let in bytes that are no characters,
after which anything goes, and a NUL ends a text. And it writes a grammar out and reads it again, with \xfc for U+00FC
and \x01 for a control, and takes hexadecimal digits behind these as part of them: none ever follows. It also writes
"^" as it is: no class begins with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from mlflow_llm_plugins.errors import UnsupportedFeatureError
from mlflow_llm_plugins.generation.openvino.prover.grammar.characters import Range
from mlflow_llm_plugins.generation.openvino.prover.grammar.expressions import (
    EMPTY,
    Choice,
    Expression,
    OneOf,
    Repeat,
    Rule,
    Sequence,
    Text,
)

_ASCII = 0x7F
_LARGEST_COUNT = 2**31 - 1  # xgrammar takes a larger one for what its last 32 bits say
_CARET = ord("^")
_FIRST_PRINTABLE = 0x20
_PIECES = re.compile(r"[ -~]*[^ -~]|[ -~]+")  # each ends after a character that xgrammar writes by its number
_LENGTHS: tuple[Range, ...] = ((0, _ASCII), (0x80, 0x7FF), (0x800, 0xFFFF), (0x10000, 0x10FFFF))


def write(rules: Mapping[str, Expression]) -> str:
    """The text of finite rules, of which "root" is the one to begin with.

    Raises:
        UnsupportedFeatureError: A count is too large for xgrammar.
    """
    return "\n".join(f"{name} ::= {_written(expression)}" for name, expression in rules.items())


def _written(expression: Expression) -> str:
    if isinstance(expression, Text):
        return " ".join(f'"{"".join(map(_character, map(ord, piece)))}"' for piece in _pieces(expression))
    if isinstance(expression, OneOf):
        return "[" + "".join(_range(*part) for part in _in_order(expression)) + "]"
    if isinstance(expression, Sequence):
        return " ".join(map(_operand, expression.parts))
    if isinstance(expression, Choice):
        return " | ".join(map(_operand, expression.options))
    if isinstance(expression, Repeat):
        return _operand(expression.part) + _times(expression)
    return expression.name


def _operand(expression: Expression) -> str:
    """In parentheses where it is more than one thing."""
    written = _written(expression)
    if isinstance(expression, Text):
        is_one = expression != EMPTY and len(_pieces(expression)) == 1
    else:
        is_one = isinstance(expression, (OneOf, Rule))
    return written if is_one else f"({written})"


def _pieces(text: Text) -> list[str]:
    """Parts of which each is written as a text of its own."""
    return _PIECES.findall(text.text) or [""]


def _in_order(one_of: OneOf) -> list[Range]:
    """The ranges as they are written: "^" not first, and no digit behind a control."""
    parts = list(_byte_ranges(one_of.characters.ranges))
    if parts[0][0] == _CARET and len(parts) == 1:
        return [(_CARET + 1, parts[0][1]), (_CARET, _CARET)]
    return sorted(parts, key=lambda part: (part[0] == _CARET, part[1] < _FIRST_PRINTABLE))


def _times(repeat: Repeat) -> str:
    if max(repeat.least, repeat.most or 0) > _LARGEST_COUNT:
        raise UnsupportedFeatureError(
            f"The form cannot be honoured: counting to more than {_LARGEST_COUNT} is not supported by the engine "
            "'openvino'. Leave the limit out, or lower it."
        )
    if repeat.most is None:
        return {0: "*", 1: "+"}.get(repeat.least, f"{{{repeat.least},}}")
    return "?" if (repeat.least, repeat.most) == (0, 1) else f"{{{repeat.least},{repeat.most}}}"


def _byte_ranges(ranges: Iterable[Range]) -> Iterator[Range]:
    """The same characters in ranges within which every byte of UTF-8 goes through a range of its own."""
    for first, last in ranges:
        for shortest, longest in _LENGTHS:
            if first <= longest and shortest <= last:
                yield from _split(max(first, shortest), min(last, longest))


def _split(first: int, last: int) -> Iterator[Range]:
    """A range of characters of as many bytes, cut where a byte begins anew; each but the first has six bits."""
    for bits in () if last <= _ASCII else (6, 12, 18):
        low = (1 << bits) - 1
        if first & ~low == last & ~low:
            break
        if first & low:
            yield from _split(first, first | low)
            yield from _split((first | low) + 1, last)
            return
        if last & low != low:
            yield from _split(first, (last & ~low) - 1)
            yield from _split(last & ~low, last)
            return
    yield first, last


def _range(first: int, last: int) -> str:
    return _character(first) if first == last else f"{_character(first)}-{_character(last)}"


def _character(code_point: int) -> str:
    """A letter or digit of ASCII as it is, all else by its number: nothing else could mean something."""
    character = chr(code_point)
    if character.isascii() and character.isalnum():
        return character
    return f"\\u{code_point:04x}" if code_point <= 0xFFFF else f"\\U{code_point:08x}"
