"""The keywords of JSON schemas: which are honoured, which are refused, and what their values may be.

A keyword in neither table is an annotation, as the specification has it.
"""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Any

from mlflow_llm_plugins.generation.openvino.prover.grammar import strings
from mlflow_llm_plugins.generation.openvino.prover.grammar.places import Place

OF_TYPES: Mapping[str, tuple[str, ...]] = MappingProxyType(  # honoured, for values of this type
    {
        "null": (),
        "boolean": (),
        "integer": (),
        "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        "string": ("minLength", "maxLength", "pattern", "format"),
        "array": ("items", "prefixItems", "minItems", "maxItems"),
        "object": ("properties", "required", "additionalProperties"),
    }
)
TYPES = tuple(OF_TYPES)
ALONE = ("$ref", "anyOf", "oneOf", "allOf")  # honoured with nothing but annotations beside them
LISTED = ("enum", "const")  # honoured with nothing but a type beside them
HONOURED = frozenset(("type", *ALONE, *LISTED, *(keyword for row in OF_TYPES.values() for keyword in row)))

REFUSED = frozenset(
    (
        *("not", "if", "then", "else", "$dynamicRef", "$recursiveRef"),
        *("dependencies", "dependentRequired", "dependentSchemas", "patternProperties", "propertyNames"),
        *("minProperties", "maxProperties", "unevaluatedProperties", "unevaluatedItems"),
        *("uniqueItems", "contains", "minContains", "maxContains", "additionalItems", "extends", "disallow"),
    )
)
_WITHOUT_EFFECT: Mapping[str, Any] = MappingProxyType(
    {"uniqueItems": False, "minProperties": 0, "patternProperties": {}, "dependentRequired": {}}
)


def checked(schema: Mapping[str, Any], place: Place) -> dict[str, Any]:
    """The keywords of a schema that say what values may be, all of them honoured.

    Raises:
        UnsupportedFeatureError: Names the keyword that is not.
    """
    for name in schema:
        if name in REFUSED and not (name in _WITHOUT_EFFECT and schema[name] == _WITHOUT_EFFECT[name]):
            raise (place / name).unsupported("this keyword is")
    if "$id" in schema and place.pointer != "#":
        raise (place / "$id").unsupported("another base for references is")
    found = {name: value for name, value in schema.items() if name in HONOURED}
    for name in (*ALONE, *LISTED):
        beside = set(found) - {name} - ({"type", *LISTED} if name in LISTED else set())
        if name in found and beside:
            raise (place / name).unsupported(f"it and {min(beside)} in one schema are")
    return found


def types(schema: Mapping[str, Any], place: Place) -> list[str]:
    """The types that values may have: the schema's own, or those that its keywords are about."""
    if "type" not in schema:
        return [kind for kind, names in OF_TYPES.items() if any(name in schema for name in names)]
    named = schema["type"]
    kinds = [named] if isinstance(named, str) else named
    if not isinstance(kinds, list) or not kinds or not all(kind in TYPES for kind in kinds):
        raise (place / "type").wrong(f"it must be one or a list of {', '.join(TYPES)}", named)
    return [kind for kind in kinds if kind != "integer" or "number" not in kinds]


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of numbers."""

    low: Fraction | None
    high: Fraction | None
    without_low: bool
    without_high: bool

    def whole(self) -> tuple[Fraction | None, Fraction | None]:
        """The least and the largest whole number between them."""
        low = None if self.low is None else Fraction(-(-self.low // 1))
        high = None if self.high is None else Fraction(self.high // 1)
        if low is not None and low == self.low and self.without_low:
            low += 1
        if high is not None and high == self.high and self.without_high:
            high -= 1
        return low, high


def bounds(schema: Mapping[str, Any], place: Place) -> Bounds:
    """What the keywords for numbers say."""
    low, without_low = _number(schema, "minimum", place), False
    over = _number(schema, "exclusiveMinimum", place)
    if over is not None and (low is None or over >= low):
        low, without_low = over, True
    high, without_high = _number(schema, "maximum", place), False
    under = _number(schema, "exclusiveMaximum", place)
    if under is not None and (high is None or under <= high):
        high, without_high = under, True
    return Bounds(low, high, without_low, without_high)


def _number(schema: Mapping[str, Any], name: str, place: Place) -> Fraction | None:
    value = schema.get(name)
    if name not in schema:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) == float("inf") or value != value:
        raise (place / name).wrong("it must be a number", value)
    return Fraction(repr(value))  # as it was written: 0.1 is a tenth


def sizes(schema: Mapping[str, Any], least: str, most: str, place: Place) -> tuple[int, int | None]:
    """How many there must be and may be."""
    for name in (least, most):
        value = schema.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0 or value != value // 1:
            raise (place / name).wrong("it must be a whole number, at least 0", value)
    return int(schema.get(least, 0)), None if most not in schema else int(schema[most])


def properties(schema: Mapping[str, Any], place: Place) -> tuple[dict[str, Any], list[str]]:
    """The schemas of an object's properties, and the names of those that it must have."""
    named, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(named, dict):
        raise (place / "properties").wrong("it must be an object of schemas", named)
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise (place / "required").wrong("it must be a list of names", required)
    return named, list(dict.fromkeys(required))


def known_format(name: Any, place: Place) -> str:
    """The regex of a format."""
    if not isinstance(name, str) or name not in strings.FORMATS:
        known = ", ".join(strings.FORMATS)
        raise (place / "format").unsupported(f"{name!r} (other than {known}; a pattern may say it) is")
    return strings.FORMATS[name]


def pointed_to(schema: Mapping[str, Any], pointer: Any, place: Place) -> Any:
    """The part of a schema that a reference names."""
    if not isinstance(pointer, str) or not (pointer == "#" or pointer.startswith("#/")):
        raise place.unsupported(f"a reference such as {pointer!r}, to another place than one in the schema itself, is")
    found: Any = schema
    for part in urllib.parse.unquote(pointer).split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        elif isinstance(found, dict) and name in found:
            found = found[name]
        else:
            raise place.wrong("it must name a part of the schema", pointer)
    return found


def literal(value: object, place: Place) -> str:
    """A value as JSON text."""
    try:
        text = strings.literal(value)
        text.encode()  # half a surrogate pair is no text
    except ValueError:
        raise place.wrong("it must be a value that JSON has", value) from None
    return text


def canonical(value: object) -> str:
    """The same text for values that JSON has for the same; Python takes true for 1."""

    def whole(digits: str) -> float:
        number = float(digits)
        return int(number) if number.is_integer() else number

    return json.dumps(json.loads(json.dumps(value), parse_float=whole), sort_keys=True)


def same_type(value: object, kind: str) -> bool:
    """Whether a value is of a type of JSON schemas."""
    if isinstance(value, bool):
        return kind == "boolean"
    if isinstance(value, (int, float)):
        return kind == "number" or (kind == "integer" and value == value // 1)
    return kind == {str: "string", list: "array", dict: "object", type(None): "null"}[type(value)]
