"""The schemas of `oneOf`: whether a value may fit two of them.

A grammar takes what fits any of them, so those that might overlap are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from mlflow_llm_plugins.generation.openvino.prover.grammar.keywords import TYPES, canonical, same_type
from mlflow_llm_plugins.generation.openvino.prover.grammar.places import Place

MOST_COMPARED = 64  # schemas that are no constants; each with each other


@dataclass(frozen=True, slots=True)
class _Outline:
    """What tells a schema from others."""

    values: frozenset[str] | None  # the only ones that it allows, as `canonical`; None: it does not list them
    kinds: frozenset[str]  # the types that a value may have at most
    required: Mapping[str, Any]  # the schemas of the properties that an object must have


class Alternatives:
    """Compares parts of one schema, which must stay as it is; each part, and each pair, once."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._outlines: dict[int, _Outline] = {}
        self._pairs: dict[tuple[int, int], bool] = {}

    def require_disjoint(self, schemas: Sequence[Any], place: Place) -> None:
        """Refuse schemas of which an answer might fit two.

        Args:
            schemas: Known to be schemas, references resolved.
            place: Of the list.

        Raises:
            UnsupportedFeatureError: They might overlap, or are too many to tell.
        """
        constants = [schema for schema in schemas if self._is_constant(schema)]
        others = [schema for schema in schemas if not self._is_constant(schema)]
        if len(others) > MOST_COMPARED:
            raise place.unsupported(f"with more than {MOST_COMPARED} schemas that are no const or enum it is")
        if not (
            self._have_no_value_twice(constants)
            and self._have_no_type_of(constants, others)
            and all(self._are_disjoint(one, other) for one, other in combinations(others, 2))
        ):
            raise place.unsupported(
                "with schemas that do not differ in type, const or enum, or in those of a required property, it is"
            )

    def _is_constant(self, schema: Any) -> bool:
        return isinstance(schema, dict) and self._outline(schema).values is not None

    def _have_no_value_twice(self, constants: Sequence[Any]) -> bool:
        seen: set[str] = set()
        for schema in constants:
            values = self._outline(schema).values or frozenset()
            if not seen.isdisjoint(values):
                return False
            seen |= values
        return True

    def _have_no_type_of(self, constants: Sequence[Any], others: Sequence[Any]) -> bool:
        kinds = frozenset[str]().union(*(self._outline(schema).kinds for schema in constants))
        return not constants or all(
            isinstance(schema, dict) and kinds.isdisjoint(self._outline(schema).kinds) for schema in others
        )

    def _are_disjoint(self, one: Any, other: Any) -> bool:
        pair = id(one), id(other)
        if pair not in self._pairs:
            self._pairs[pair] = self._compared(one, other)
        return self._pairs[pair]

    def _compared(self, one: Any, other: Any) -> bool:
        if not isinstance(one, dict) or not isinstance(other, dict):
            return False
        mine, theirs = self._outline(one), self._outline(other)
        if mine.values is not None and theirs.values is not None:
            return mine.values.isdisjoint(theirs.values)
        if mine.kinds.isdisjoint(theirs.kinds):
            return True
        if mine.kinds != {"object"} or theirs.kinds != {"object"}:
            return False
        return any(
            self._are_disjoint(schema, theirs.required[name])
            for name, schema in mine.required.items()
            if name in theirs.required
        )

    def _outline(self, schema: dict[str, Any]) -> _Outline:
        if id(schema) not in self._outlines:
            values = _values(schema)
            texts = None if values is None else frozenset(map(canonical, values))
            self._outlines[id(schema)] = _Outline(texts, _kinds(schema, values), _required(schema))
        return self._outlines[id(schema)]


def _values(schema: Mapping[str, Any]) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    listed = schema.get("enum")
    return listed if isinstance(listed, list) else None


def _kinds(schema: Mapping[str, Any], values: list[Any] | None) -> frozenset[str]:
    if values is not None:
        kinds = set(TYPES) - {"integer"}
        return frozenset(kind for kind in kinds if any(same_type(value, kind) for value in values))
    named = schema.get("type", list(TYPES))
    listed = named if isinstance(named, list) else [named]
    return frozenset("number" if kind == "integer" else kind for kind in listed if isinstance(kind, str))


def _required(schema: Mapping[str, Any]) -> dict[str, Any]:
    required, named = schema.get("required", []), schema.get("properties", {})
    if not isinstance(named, dict) or not isinstance(required, list):
        return {}
    return {name: named[name] for name in required if isinstance(name, str) and name in named}
