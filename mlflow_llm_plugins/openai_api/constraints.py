"""What an answer must look like: several fields say it, each in its own way, and a request may have one of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.openai_api.fields import mapping, named, present, shown, wrong

_ANY_OBJECT = '{"type": "object"}'
_KEYS = {"text": (), "json_object": (), "json_schema": ("json_schema",)}  # of a response_format, by its type
_NOT_GIVEN: tuple[Any, ...] = (None, "", [], ())


class AnswerForm(NamedTuple):
    """The form under the names of generation engines."""

    kind: str  # "json_schema", "regex", "choice" or "lark"
    value: str | tuple[str, ...]  # a schema as JSON text, a pattern, the choices, a grammar


def parse_constraint(raw: Mapping[str, Any]) -> AnswerForm | None:
    """Read the form that a request asks for; None where it asks for none.

    Whether an engine can honour the form is found out where the request enters it.

    Args:
        raw: A request; its other fields are not looked at. Empty text and empty lists count as not given.

    Raises:
        InvalidInputError: A value of the wrong type, or more than one form.
    """
    given = {name: raw[name] for name in CONSTRAINT_FIELDS if raw.get(name) not in _NOT_GIVEN}
    forms = {name: form for name, value in given.items() if (form := _READERS[name](name, value)) is not None}
    if len(forms) > 1:
        conflict = named({name: given[name] for name in forms})
        raise InvalidInputError(f"{conflict} each say what the answer must look like; give one of them.")
    return next(iter(forms.values()), None)


def _response_format(name: str, value: object) -> AnswerForm | None:
    given = present(mapping(name, value))
    if not given:
        return None
    kind = given.pop("type", None)
    if not isinstance(kind, str) or kind not in _KEYS:
        raise wrong(f"{name}.type", " or ".join(map(repr, _KEYS)), kind)
    if others := sorted(given.keys() - set(_KEYS[kind])):
        raise InvalidInputError(f"{name} of type {kind!r} cannot have {', '.join(map(shown, others))}.", param=name)
    if kind == "json_object":
        return AnswerForm("json_schema", _ANY_OBJECT)
    return None if kind == "text" else _schema_of(f"{name}.json_schema", given.get("json_schema"))


def _schema_of(name: str, value: object) -> AnswerForm:
    """OpenAI's wrapping; its `name`, `description` and `strict` change nothing, as every schema is kept strictly."""
    return _json_schema(f"{name}.schema", mapping(name, value).get("schema"))


def _json_schema(name: str, value: object) -> AnswerForm:
    if isinstance(value, str):
        return AnswerForm("json_schema", value)
    schema = mapping(name, value)
    try:
        return AnswerForm("json_schema", json.dumps(schema))
    except RecursionError as error:
        raise InvalidInputError(f"{name} is nested too deeply.", param=name) from error
    except (TypeError, ValueError) as error:  # of a caller in Python
        raise InvalidInputError(f"{name} must be a JSON schema: {error}.", param=name) from error


def _regex(name: str, value: object) -> AnswerForm:
    return AnswerForm("regex", _text(name, value))


def _choice(name: str, value: object) -> AnswerForm:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise wrong(name, "a list of strings", value)
    return AnswerForm("choice", tuple(value))


def _grammar(name: str, value: object) -> AnswerForm:
    return AnswerForm("lark", _text(name, value))


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise wrong(name, "a string", value)
    return value


_READERS: dict[str, Callable[[str, object], AnswerForm | None]] = {
    "response_format": _response_format,  # OpenAI's
    "json_schema": _json_schema,  # an object or JSON text
    "regex": _regex,
    "choice": _choice,
    "grammar": _grammar,  # Lark's notation
}
CONSTRAINT_FIELDS = tuple(_READERS)
