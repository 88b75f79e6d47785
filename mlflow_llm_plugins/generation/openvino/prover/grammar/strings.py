"""JSON strings: every character is spelt in one way, so that lengths and keys can be counted on."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from types import MappingProxyType

from mlflow_llm_plugins.generation.openvino.prover.grammar.characters import ALL, Characters
from mlflow_llm_plugins.generation.openvino.prover.grammar.expressions import (
    EMPTY,
    Expression,
    Grammar,
    Repeat,
    Rule,
    Text,
    characters,
    choice,
    repeat,
    sequence,
)

_CONTROLS = Characters.span(0, 0x1F)
_ESCAPED = Characters.of('"\\') | _CONTROLS
_TEXT = ALL & ~(_CONTROLS & ~Characters.of("\b\f\n\r\t"))  # not what would need \u0001
QUOTE = Text('"')

_DATE = (
    r"[0-9]{4}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)"
    r"|02-(0[1-9]|1[0-9]|2[0-8]))"
)
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_OCTET = r"(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
FORMATS: Mapping[str, str] = MappingProxyType(  # regexes of texts that surely have the format; not of all
    {
        "date": _DATE.replace("[0-9]{4}", "(000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})"),
        "time": _TIME,
        "date-time": f"{_DATE.replace('[0-9]{4}', '[1-9][0-9]{3}')}T{_TIME}",
        "email": r"[A-Za-z0-9_+-]+(\.[A-Za-z0-9_+-]+)*@[A-Za-z0-9]+(-[A-Za-z0-9]+)*(\.[A-Za-z0-9]+(-[A-Za-z0-9]+)*)+",
        "ipv4": rf"{_OCTET}(\.{_OCTET}){{3}}",
        "uuid": r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    }
)


def spelt(allowed: Characters) -> Expression:
    """One of these characters as it stands in a JSON string."""
    escaped = allowed & _ESCAPED
    escapes = [Text(literal(chr(point))[1:-1]) for first, last in escaped.ranges for point in range(first, last + 1)]
    return choice([characters(allowed & ~_ESCAPED), *escapes])


def literal(value: object) -> str:
    """A value as JSON, without white space."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def any_character(grammar: Grammar) -> Rule:
    """One character of a string, as a rule."""
    return grammar.new_rule(spelt(_TEXT))


def strings(character: Rule, least: int, most: int | None) -> Expression:
    """Strings of so many characters."""
    return sequence([QUOTE, repeat(character, least, most), QUOTE])


def strings_but(names: Collection[str], grammar: Grammar, character: Rule) -> Expression:
    """All strings but some, for keys that none of the others may take."""
    return sequence([QUOTE, _rest_but(frozenset(names), grammar, character), QUOTE])


def _rest_but(names: frozenset[str], grammar: Grammar, character: Rule) -> Expression:
    """What may follow a beginning that these endings would make into one of the names."""
    if not names:
        return Repeat(character, 0, None)
    by_first: dict[str, set[str]] = {}
    for name in sorted(names - {""}):
        by_first.setdefault(name[0], set()).add(name[1:])
    options: list[Expression] = [] if "" in names else [EMPTY]
    others = spelt(_TEXT & ~Characters.of("".join(by_first)))
    options.append(sequence([others, Repeat(character, 0, None)]))
    for first, endings in by_first.items():
        if first_spelt := Characters.of(first) & _TEXT:
            rest = _rest_but(frozenset(endings), grammar, character)
            options.append(sequence([spelt(first_spelt), rest]))
    return grammar.new_rule(choice(options))
