"""Fields of a decision request, read by type; a message names the place and what is allowed, never the value."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

from mlflow_llm_plugins.errors import UnsupportedFeatureError
from mlflow_llm_plugins.lookup import did_you_mean
from mlflow_llm_plugins.openai_api.decisions.faults import InvalidDecisionError
from mlflow_llm_plugins.openai_api.fields import shown

_Name = TypeVar("_Name", bound=str)

_NAMED = 3  # unknown fields that a message names
_HINTED = 80  # characters of a name that are compared with what is known

_REFUSED = {
    "stream": "there is nothing to stream, as all answers are read at once",
    "images": "this engine reads text only",
    "assets": "this engine reads text only",
    "instructions": "instructions belong to each question",
}


def a_body(value: object) -> dict[str, Any]:
    """The request; fields that nobody knows are left alone.

    Raises:
        InvalidDecisionError: It is no object.
        UnsupportedFeatureError: Names all fields that would change the answers and cannot be honoured.
    """
    body = an_object("The request", value)
    if refused := [f"{name} is not supported: {why}." for name, why in _REFUSED.items() if body.get(name)]:
        raise UnsupportedFeatureError(" ".join(refused))
    return body


def an_object(where: str, value: object) -> dict[str, Any]:
    """A JSON object."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise wrong_kind(where, "an object with string keys", value)
    return dict(value)


def a_string(where: str, value: object) -> str:
    """A string that can be sent as UTF-8, which a lone half of a surrogate pair cannot."""
    if not isinstance(value, str):
        raise wrong_kind(where, "a string", value)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidDecisionError(f"{where} has half a surrogate pair, which is no character.") from None
    return value


def items(where: str, value: object, least: int, most: int) -> Sequence[Any]:
    """A list of `least` to `most` items."""
    if not isinstance(value, list | tuple):
        raise wrong_kind(where, "a list", value)
    check_count(where, len(value), least, most)
    return value


def check_count(where: str, count: int, least: int, most: int) -> None:
    """Refuse too few and too many items."""
    if not least <= count <= most:
        raise InvalidDecisionError(f"{where} must have from {least} to {most} items, got {count}.")


def one_of(where: str, value: object, known: Collection[_Name]) -> _Name:
    """One of the `known` names."""
    for name in known:
        if value == name:
            return name
    allowed = f"one of {', '.join(known)}"
    if not isinstance(value, str) or not value.isidentifier():  # no name, so perhaps what somebody said
        raise wrong_kind(where, allowed, value)
    raise InvalidDecisionError(f"{where} must be {allowed}, got {shown(value)}.{did_you_mean(value[:_HINTED], known)}")


def question_type(where: str, value: object, known: Collection[_Name]) -> _Name:
    """The type of a question; boxes, which are known elsewhere, are refused for what they are."""
    if value == "box":
        raise UnsupportedFeatureError(f"{where} 'box' is not supported: it asks for a place in an image.")
    return one_of(where, value, known)


def check_fields(where: str, given: Collection[str], known: Collection[str]) -> None:
    """Refuse fields that are not `known`."""
    if unknown := [name for name in given if name not in known]:
        names = ", ".join(map(shown, unknown[:_NAMED])) + (", ..." if len(unknown) > _NAMED else "")
        hints = "".join(did_you_mean(name[:_HINTED], known) for name in unknown[:_NAMED])
        raise InvalidDecisionError(f"{where} has no field {names}; it may have {', '.join(known)}.{hints}")


def content(where: str, value: object, max_depth: int) -> str:
    """What the prompt shows of a string, an object or an array."""
    if isinstance(value, str):
        return a_string(where, value)
    if not isinstance(value, dict | list | tuple):
        raise wrong_kind(where, "a string, an object or an array", value)
    return json_text(where, value, max_depth)


def json_text(where: str, value: object, max_depth: int) -> str:
    """The one JSON text that equal values have: keys sorted, nothing between the tokens."""
    if _is_deeper(value, max_depth):
        raise InvalidDecisionError(f"{where} has objects and arrays nested deeper than {max_depth}.")
    try:
        text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:  # NaN, which json.loads takes, and what only Python has
        raise InvalidDecisionError(f"{where} is no JSON, which has finite numbers and string keys.") from error
    return a_string(where, text)


def _is_deeper(value: object, depth: int) -> bool:
    if not isinstance(value, dict | list | tuple):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return depth == 0 or any(_is_deeper(item, depth - 1) for item in inner)


def wrong_kind(where: str, allowed: str, value: object) -> InvalidDecisionError:
    """The error for a value of another kind than `allowed`."""
    return InvalidDecisionError(f"{where} must be {allowed}, got {type(value).__name__}.")
