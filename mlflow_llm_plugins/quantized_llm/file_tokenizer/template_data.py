"""What chat templates may see: values of JSON's types, without the methods of other objects."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mlflow_llm_plugins.errors import InvalidInputError

_REASONING = ("reasoning_content", "thinking", "reasoning")  # most templates read the first, gpt-oss' the second

# Of subclasses, which may have methods of their own.
_SCALARS: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
)


def plain_messages(conversation: Sequence[Any]) -> list[dict[str, Any]]:
    """Messages as templates expect them.

    Keys that are None are left out, as many templates would write "None"; reasoning stands under each of the names
    that templates read.

    Raises:
        InvalidInputError: There is no message, or one is no dictionary.
    """
    if not conversation:
        raise InvalidInputError("A chat needs at least one message, got none.")
    return [_plain_message(message) for message in conversation]


def _plain_message(raw: Any) -> dict[str, Any]:
    if not isinstance(raw, Mapping):
        raise InvalidInputError(f"A message of a chat must be a dictionary, got {type(raw).__name__}.")
    message: dict[str, Any] = plain({key: value for key, value in raw.items() if value is not None})
    reasoning = next((message[name] for name in _REASONING if name in message), None)
    if reasoning is None:
        return message
    return {"thinking": reasoning, **message, "reasoning_content": reasoning}


def plain(value: Any) -> Any:
    """The value made of JSON's types anew: methods of other objects could lead a template out of its sandbox."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, tuple):
        return tuple(plain(item) for item in value)
    for base, as_base in _SCALARS:
        if isinstance(value, base):
            return as_base(value)
    return _plain_object(value)


def _plain_object(value: Any) -> Any:
    if isinstance(value, np.generic):
        return plain(value.item())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if callable(getattr(value, "model_dump", None)):  # a pydantic model
        return plain(value.model_dump())
    return f"<{type(value).__name__}>"
