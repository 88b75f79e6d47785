"""What is wrong with a form whatever library follows it: checks that need neither torch nor a grammar engine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError, UnsupportedFeatureError
from mlflow_llm_plugins.generation.requests import ConstraintKind

MAX_CHARACTERS = 2**18  # of a form; each step takes time in proportion to the longest text that a form prescribes
LONGEST_REASON = 300

NAMES: Mapping[ConstraintKind, str] = MappingProxyType(
    {"json_schema": "JSON schema", "regex": "regex", "choice": "choice", "lark": "Lark grammar"}
)


def require_text(kind: ConstraintKind, value: str | tuple[str, ...]) -> None:
    """Refuse a form that is too long, or that no text can have.

    Raises:
        InvalidInputError: More than `MAX_CHARACTERS`.
        UnsupportedFeatureError: Half a surrogate pair.
    """
    name, text = NAMES[kind], "".join(value)
    if len(text) > MAX_CHARACTERS:
        raise InvalidInputError(f"The {name} may have at most {MAX_CHARACTERS} characters, got {len(text)}.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UnsupportedFeatureError(f"The {name} cannot be honoured: {shortened(str(error))}.") from error


def read_schema(text: str) -> dict[str, Any]:
    """The JSON schema that a text holds; true becomes {}.

    Raises:
        InvalidInputError: It is no JSON text, or no schema, or one that allows nothing.
    """
    try:
        schema = json.loads(text)
    except RecursionError as error:
        raise InvalidInputError("The JSON schema is nested too deeply.") from error
    except ValueError as error:
        raise InvalidInputError(f"The JSON schema is no JSON text: {error}.") from error
    if schema is False:
        raise InvalidInputError("The JSON schema cannot be honoured: false allows no answer.")
    if schema is not True and not isinstance(schema, dict):
        raise InvalidInputError(f"The JSON schema must be an object or a boolean, got {type(schema).__name__}.")
    return {} if schema is True else schema


def shortened(text: str) -> str:
    """The first line of a library's message, at most `LONGEST_REASON` characters of it, without a full stop."""
    line = text.strip().partition("\n")[0].rstrip(".")
    return line if len(line) <= LONGEST_REASON else line[: LONGEST_REASON - 3] + "..."
