"""JSON schemas, put together from small ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
SOME_TEXT: Schema = {"type": "string", "minLength": 1}
BOOLEAN: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
SHARE: Schema = {"type": "number", "minimum": 0, "maximum": 1}
OBJECT: Schema = {"type": "object"}
NULL: Schema = {"type": "null"}


def ref(name: str) -> Schema:
    """One of the document's schemas."""
    return {"$ref": f"#/components/schemas/{name}"}


def number(**bounds: float) -> Schema:
    """A number within bounds, by their names in JSON schema."""
    return {"type": "number", **bounds}


def integer(**bounds: int) -> Schema:
    """A whole number within bounds, by their names in JSON schema."""
    return {"type": "integer", **bounds}


def one_of(*values: Any) -> Schema:
    """One of the values."""
    return {"enum": list(values)}


def any_of(*schemas: Schema) -> Schema:
    """What fits one of the schemas at least."""
    return {"anyOf": list(schemas)}


def array(items: Schema, least: int = 0, most: int | None = None) -> Schema:
    """A list of `least` to `most` items; None: without a bound."""
    return {"type": "array", "items": items, "minItems": least, **({} if most is None else {"maxItems": most})}


def mapping(values: Schema, least: int = 0, most: int | None = None) -> Schema:
    """An object from any names to `values`, of which there are from `least` to `most`."""
    bound = {} if most is None else {"maxProperties": most}
    return {"type": "object", "additionalProperties": values, "minProperties": least, **bound}


def fields(properties: Mapping[str, Schema], required: Iterable[str] = ()) -> Schema:
    """An object with these fields, and perhaps others."""
    return {"type": "object", "properties": dict(properties), "required": list(required)}


def record(**properties: Schema) -> Schema:
    """An object that has all of these fields."""
    return fields(properties, properties)


def closed(properties: Mapping[str, Schema], required: Iterable[str] = ()) -> Schema:
    """An object with these fields and no others."""
    return {**fields(properties, required), "additionalProperties": False}


def or_null(schema: Schema) -> Schema:
    """The same, or null, which means that nothing is given."""
    bare = {name: value for name, value in schema.items() if name != "description"}
    text = {"description": schema["description"]} if "description" in schema else {}
    return {**any_of(bare, NULL), **text}


def described(text: str, schema: Schema) -> Schema:
    """The same, with a description."""
    return {**schema, "description": text}
