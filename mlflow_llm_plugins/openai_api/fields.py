"""Values of a JSON request, read by type; a message names the field, what is allowed and the value."""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Mapping
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError

_INT64 = range(-(2**63), 2**63)
_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80


def shown(value: object) -> str:
    """The value as a message shows it: its repr, cut where it is long. Not for prompts."""
    return _short.repr(value)


def named(values: Mapping[str, Any]) -> str:
    """`name=value, name=value`, as a message lists parameters."""
    return ", ".join(f"{name}={shown(value)}" for name, value in values.items())


def wrong(name: str, allowed: str, value: object) -> InvalidInputError:
    """The error for a value that is not `allowed`."""
    return InvalidInputError(f"{name} must be {allowed}, got {shown(value)}.", param=name)


def present(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that were given; null means not given, as in OpenAI's API."""
    return {name: value for name, value in raw.items() if value is not None}


def boolean(name: str, value: object) -> bool:
    """True or false, nothing that only looks like it."""
    if not isinstance(value, bool):
        raise wrong(name, "true or false", value)
    return value


def integer(name: str, value: object) -> int:
    """A whole number of 64 bits; a bool is none."""
    if isinstance(value, bool) or not isinstance(value, int) or value not in _INT64:
        raise wrong(name, "a whole number of at most 64 bits", value)
    return value


def number(name: str, value: object) -> float:
    """A finite number; neither a bool nor a string of digits is one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise wrong(name, "a finite number", value)
    return float(value)


def strings(name: str, value: object) -> tuple[str, ...]:
    """One string or a list of strings."""
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise wrong(name, "a string or a list of strings", value)
    return tuple(value)


def integers(name: str, value: object) -> tuple[int, ...]:
    """A list of whole numbers."""
    if not isinstance(value, list | tuple):
        raise wrong(name, "a list of whole numbers", value)
    return tuple(integer(f"{name}[{i}]", item) for i, item in enumerate(value))


def mapping(name: str, value: object) -> dict[str, Any]:
    """A JSON object."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise wrong(name, "an object with string keys", value)
    return dict(value)
