"""A JSON Schema as a check of values: the `jsonschema` library, without network and with a limit of time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.metrics.form.keywords import Limits, NestedTooDeeplyError, is_pattern, timed_keywords
from mlflow_llm_plugins.metrics.metric import NotScoredError
from mlflow_llm_plugins.metrics.packages import require

SECONDS = 2.0  # for one value
_SHOWN = 60  # characters of a rule in a reason


class SchemaCheck:
    """Called with a value: which rule it breaks and where, or None. Names that the value made up are left out."""

    def __init__(self, schema: Mapping[str, Any] | bool, seconds: float = SECONDS) -> None:
        """Check the schema itself.

        Args:
            schema: What values must meet.
            seconds: After so long the check of a value is given up.

        Raises:
            InvalidInputError: It is no JSON Schema, a reference in it leads nowhere, or it cannot be checked in a
                limited time.
            MissingDependencyError: jsonschema is not installed, or regex where the schema has patterns.
        """
        self.schema = _as_json(schema)
        self._seconds = seconds
        self._limits = Limits()
        self._validator = _validator(self.schema, self._limits)
        self._best_match = require("jsonschema.exceptions", "jsonschema").best_match

    def __call__(self, value: Any) -> str | None:
        """Which rule the value breaks, the most telling one where it breaks several; None: it meets the schema.

        Raises:
            NotScoredError: The check takes too long, value and schema are nested too deeply for it, or the value has a
                number too large for it.
        """
        self._limits.start(self._seconds)
        try:
            error = self._best_match(self._validator.iter_errors(value))
            return None if error is None else _described(error)
        except TimeoutError:
            raise NotScoredError(f"to check it against the schema takes longer than {self._seconds:g} s") from None
        except (NestedTooDeeplyError, RecursionError):
            raise NotScoredError("the prediction or the schema is nested too deeply to be checked") from None
        except OverflowError:  # multipleOf divides floats, and 1e400 is none
            raise NotScoredError("the prediction has a number too large to be checked against the schema") from None


def _as_json(schema: Any) -> Any:
    if not isinstance(schema, Mapping | bool):
        raise InvalidInputError(f"schema must be a JSON Schema as a dictionary, got {type(schema).__name__}.")
    try:
        return json.loads(json.dumps(schema if isinstance(schema, bool) else dict(schema)))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"schema cannot be written as JSON: {error}.") from error


def _validator(schema: Any, limits: Limits) -> Any:
    jsonschema = require("jsonschema")
    draft = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        draft.check_schema(schema, format_checker=_formats(jsonschema))
    except jsonschema.SchemaError as error:
        raise InvalidInputError(f"schema is no JSON Schema: {error.message}, at {error.json_path}.") from error
    # Without `$schema`, or a reference to the root would go back to the library's own class.
    rules = schema if isinstance(schema, bool) else {key: rule for key, rule in schema.items() if key != "$schema"}
    _refuse_what_has_no_limit(rules)
    if dangling := sorted(set(_dangling_references(schema, draft))):
        raise InvalidInputError(f"schema refers to what it does not hold: {', '.join(dangling)}. Put it under $defs.")
    timed = jsonschema.validators.extend(draft, timed_keywords(draft.VALIDATORS, limits))
    return timed(rules, registry=require("referencing", "jsonschema").Registry())  # empty: nothing is downloaded


def _formats(jsonschema: Any) -> Any:
    """What the library checks in a schema, with patterns read as `keywords` matches them: by `regex`, not by `re`."""
    formats = jsonschema.FormatChecker()
    formats.checks("regex")(lambda value: not isinstance(value, str) or is_pattern(value))
    return formats


def _refuse_what_has_no_limit(rules: Any) -> None:
    """Refuse, wherever it stands, what would make the library use its own keywords and `re` (jsonschema 4.26)."""
    parts = list(_objects(rules))
    if any(isinstance(part.get("$schema"), str) for part in parts):
        raise InvalidInputError("schema has a $schema below its root, where it cannot be followed. Leave that out.")
    if all(any(key in part for part in parts) for key in ("patternProperties", "unevaluatedProperties")):
        raise InvalidInputError(
            "schema has patternProperties and unevaluatedProperties, which cannot be checked together in a limited "
            "time. Use additionalProperties instead of unevaluatedProperties, or name the properties."
        )


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if isinstance(value, dict):
        yield value
    for item in inner:
        yield from _objects(item)


def _dangling_references(schema: Any, draft: Any) -> Iterator[str]:
    referencing = require("referencing.jsonschema", "jsonschema")
    specification = referencing.specification_with(draft.META_SCHEMA.get("$schema", ""))
    root = specification.create_resource(schema)
    registry = require("referencing", "jsonschema").Registry()
    yield from _dangling(root, registry.resolver_with_root(root))


def _dangling(resource: Any, resolver: Any) -> Iterator[str]:
    rules = resource.contents if isinstance(resource.contents, dict) else {}
    for reference in (rules.get("$ref"), rules.get("$dynamicRef")):
        if isinstance(reference, str) and not _leads_somewhere(reference, resolver):
            yield reference
    for inner in resource.subresources():
        yield from _dangling(inner, resolver.in_subresource(inner))


def _leads_somewhere(reference: str, resolver: Any) -> bool:
    try:
        resolver.lookup(reference)
    except require("referencing", "jsonschema").exceptions.Unresolvable:
        return False
    return True


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
