"""A JSON Schema as a check of values: the `jsonschema` library, without network and without regexes that hang."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.metrics.metric import NotScoredError
from mlflow_llm_plugins.metrics.packages import require

_PATTERN_SECONDS = 1.0  # for one string and one pattern
_SHOWN = 60  # characters of a rule in a reason


class SchemaCheck:
    """Called with a value: which rule it breaks and where, or None. Names that the value made up are left out."""

    def __init__(self, schema: Mapping[str, Any] | bool) -> None:
        """Check the schema itself.

        Raises:
            InvalidInputError: It is no JSON Schema, or a reference in it leads nowhere.
            MissingDependencyError: jsonschema is not installed.
        """
        self.schema = _as_json(schema)
        self._validator = _validator(self.schema)
        self._best_match = require("jsonschema.exceptions", "jsonschema").best_match

    def __call__(self, value: Any) -> str | None:
        """Which rule the value breaks, the most telling one where it breaks several; None: it meets the schema.

        Raises:
            NotScoredError: A pattern takes too long.
        """
        try:
            error = self._best_match(self._validator.iter_errors(value))
        except TimeoutError:
            raise NotScoredError(f"a pattern of the schema takes longer than {_PATTERN_SECONDS:g} s") from None
        return None if error is None else _described(error)


def _as_json(schema: Any) -> Any:
    if not isinstance(schema, Mapping | bool):
        raise InvalidInputError(f"schema must be a JSON Schema as a dictionary, got {type(schema).__name__}.")
    try:
        return json.loads(json.dumps(schema if isinstance(schema, bool) else dict(schema)))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"schema cannot be written as JSON: {error}.") from error


def _validator(schema: Any) -> Any:
    jsonschema = require("jsonschema")
    draft = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        draft.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise InvalidInputError(f"schema is no JSON Schema: {error.message}, at {error.json_path}.") from error
    if dangling := sorted(set(_dangling_references(schema, draft))):
        raise InvalidInputError(f"schema refers to what it does not hold: {', '.join(dangling)}. Put it under $defs.")
    # Without `$schema`, or a reference to the root would go back to the library's own class.
    rules = schema if isinstance(schema, bool) else {key: rule for key, rule in schema.items() if key != "$schema"}
    safe = jsonschema.validators.extend(draft, {"pattern": _pattern})
    return safe(rules, registry=require("referencing", "jsonschema").Registry())  # empty: nothing is downloaded


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[Any]:
    """The keyword `pattern`, given up in time: the library uses `re`, which can run for ever on some strings."""
    if validator.is_type(instance, "string"):
        found = require("regex").search(pattern, instance, timeout=_PATTERN_SECONDS)
        if not found:
            yield require("jsonschema").ValidationError("no match")


def _dangling_references(schema: Any, draft: Any) -> Iterator[str]:
    referencing = require("referencing.jsonschema", "jsonschema")
    specification = referencing.specification_with(draft.META_SCHEMA.get("$schema", ""))
    root = specification.create_resource(schema)
    registry = require("referencing", "jsonschema").Registry()
    yield from _dangling(root, registry.resolver_with_root(root))


def _dangling(resource: Any, resolver: Any) -> Iterator[str]:
    reference = resource.contents.get("$ref") if isinstance(resource.contents, dict) else None
    if isinstance(reference, str):
        try:
            resolver.lookup(reference)
        except require("referencing", "jsonschema").exceptions.Unresolvable:
            yield reference
    for inner in resource.subresources():
        yield from _dangling(inner, resolver.in_subresource(inner))


def _described(error: Any) -> str:
    path = _path(error.absolute_path, error.absolute_schema_path)
    if error.validator is None:  # a schema that is `false`; the library does not tell where
        return f"{path} holds what the schema forbids"
    rule = json.dumps(error.validator_value, ensure_ascii=False)
    shown = rule if len(rule) <= _SHOWN else f"{rule[:_SHOWN]}..."
    return f"{path} breaks the rule {error.validator}: {shown}"


def _path(path: Sequence[Any], schema_path: Sequence[Any]) -> str:
    """As JSONPath; a name that the schema does not have is the answer's own text, and becomes `*`."""
    steps = (f"[{part}]" if isinstance(part, int) else f".{part if part in schema_path else '*'}" for part in path)
    return "$" + "".join(steps)
