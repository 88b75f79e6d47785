"""A JSON schema as a grammar of JSON without white space.

Every answer is valid under the schema; not every valid text is an answer: properties come in the schema's order, and
where it does not say `additionalProperties` there are none but its own. A schema without a `type` is of the types that
its keywords are about. What cannot be honoured is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.generation.openvino.prover.grammar import keywords, numbers, strings
from mlflow_llm_plugins.generation.openvino.prover.grammar.alternatives import Alternatives
from mlflow_llm_plugins.generation.openvino.prover.grammar.expressions import (
    NOTHING,
    Expression,
    Grammar,
    Rule,
    Text,
    choice,
    repeat,
    separated,
    sequence,
)
from mlflow_llm_plugins.generation.openvino.prover.grammar.places import Place
from mlflow_llm_plugins.generation.openvino.prover.grammar.regexes import Regex

_MOST_MULTIPLES = 1000
_MOST_BOUNDS = 64  # different ones; each may take kilobytes


class SchemaReader:
    """Turns one schema into expressions; the rules that it needs go into a grammar."""

    def __init__(self, schema: dict[str, Any], grammar: Grammar) -> None:
        """Take the whole schema, which `$ref` points into."""
        self._schema = schema
        self._grammar = grammar
        self._rules: dict[str, Rule] = {}  # of what $ref points to
        self._numbers: dict[tuple[str, keywords.Bounds], Expression] = {}
        self._alternatives = Alternatives()
        self._character = strings.any_character(grammar)
        self._any: Rule | None = None
        self._types: dict[str, Callable[[Mapping[str, Any], Place], Expression]] = {
            "null": lambda *_: Text("null"),
            "boolean": lambda *_: choice([Text("true"), Text("false")]),
            "integer": self._integer,
            "number": self._number,
            "string": self._string,
            "array": self._array,
            "object": self._object,
        }

    def read(self) -> Expression:
        """The answers that the schema allows.

        Raises:
            InvalidInputError: The schema itself is wrong.
            UnsupportedFeatureError: Names the keyword that cannot be honoured, and where it is.
        """
        try:
            return self._value(self._schema, Place("#"))
        except RecursionError as error:
            raise InvalidInputError("The JSON schema is nested too deeply.") from error

    def _value(self, schema: Any, place: Place) -> Expression:
        if isinstance(schema, bool):
            return self._anything() if schema else NOTHING
        if not isinstance(schema, dict):
            raise place.wrong("a schema must be an object or a boolean", schema)
        found = keywords.checked(schema, place)
        if "$ref" in found:
            return self._reference(found["$ref"], place)
        if "enum" in found or "const" in found:
            return self._listed(found, place)
        for name in ("anyOf", "oneOf", "allOf"):
            if name in found:
                return self._combined(name, found[name], place)
        if not found:
            return self._anything()
        return choice(self._types[name](found, place) for name in keywords.types(found, place))

    def _combined(self, name: str, schemas: Any, place: Place) -> Expression:
        below = place / name
        if not isinstance(schemas, list) or not schemas:
            raise below.wrong("it must be a list of schemas, at least one", schemas)
        if name == "allOf" and len(schemas) > 1:
            raise below.unsupported("more than one schema in it is")
        options = [self._value(schema, below / i) for i, schema in enumerate(schemas)]
        if name == "oneOf":  # after it is known that each of them is a schema
            self._alternatives.require_disjoint([self._resolved(schema, below) for schema in schemas], below)
        return choice(options)

    def _reference(self, pointer: Any, place: Place) -> Expression:
        target = keywords.pointed_to(self._schema, pointer, place / "$ref")
        if pointer in self._rules:
            return self._rules[pointer]
        rule = self._rules[pointer] = self._grammar.new_rule()
        self._grammar.define(rule, self._value(target, Place(pointer)))
        return rule

    def _resolved(self, schema: Any, place: Place, depth: int = 0) -> Any:
        """The schema that a chain of references leads to."""
        if not isinstance(schema, dict) or "$ref" not in schema or depth > 100:
            return schema
        return self._resolved(keywords.pointed_to(self._schema, schema["$ref"], place), place, depth + 1)

    def _listed(self, schema: Mapping[str, Any], place: Place) -> Expression:
        values = schema.get("enum", [schema.get("const")])
        if not isinstance(values, list):
            raise (place / "enum").wrong("it must be a list of values", values)
        if "const" in schema:
            wanted = keywords.canonical(schema["const"])
            values = [value for value in values if keywords.canonical(value) == wanted]
        kinds = keywords.types(schema, place) if "type" in schema else keywords.TYPES
        kept = [value for value in values if any(keywords.same_type(value, kind) for kind in kinds)]
        return choice(Text(keywords.literal(value, place)) for value in kept)

    def _anything(self) -> Expression:
        if self._any is None:
            self._any = self._grammar.new_rule()
            scalars = [self._types[kind]({}, Place("#")) for kind in ("null", "boolean", "number", "string")]
            member = sequence([strings.strings(self._character, 0, None), Text(":"), self._any])
            lists = sequence([Text("["), separated(self._any, 0, None), Text("]")])
            objects = sequence([Text("{"), separated(member, 0, None), Text("}")])
            self._grammar.define(self._any, choice([*scalars, lists, objects]))
        return self._any

    def _integer(self, schema: Mapping[str, Any], place: Place) -> Expression:
        bounds = keywords.bounds(schema, place)
        step = schema.get("multipleOf", 1)
        if isinstance(step, bool) or not isinstance(step, int) or step < 1:
            raise (place / "multipleOf").unsupported("another value than a whole number above 0 is")
        low, high = bounds.whole()
        if step == 1:
            if numbers.are_too_long(low, high, numbers.LARGEST_INTEGER):
                raise place.unsupported(f"integers of more than {numbers.INTEGER_DIGITS} digits are")
            return self._shared("integer", bounds, place, lambda: numbers.integers(low, high))
        if low is None or high is None or (high - low) / step > _MOST_MULTIPLES:
            raise (place / "multipleOf").unsupported(f"without bounds for at most {_MOST_MULTIPLES} values it is")
        first = -(-int(low) // step) * step
        return choice(Text(str(value)) for value in range(first, int(high) + 1, step))

    def _number(self, schema: Mapping[str, Any], place: Place) -> Expression:
        if "multipleOf" in schema:
            raise (place / "multipleOf").unsupported("for numbers that may have a fraction it is")
        bounds = keywords.bounds(schema, place)
        if numbers.are_too_long(bounds.low, bounds.high, numbers.LARGEST_NUMBER):
            raise place.unsupported(f"numbers of more than {numbers.NUMBER_DIGITS} digits before the point are")
        return self._shared(
            "number",
            bounds,
            place,
            lambda: numbers.numbers(
                bounds.low, bounds.high, without_low=bounds.without_low, without_high=bounds.without_high
            ),
        )

    def _shared(self, kind: str, bounds: keywords.Bounds, place: Place, write: Callable[[], Expression]) -> Expression:
        """Numbers of a kind as one rule, however often their bounds come."""
        if (kind, bounds) not in self._numbers:
            if len(self._numbers) >= _MOST_BOUNDS:
                raise place.unsupported(f"more than {_MOST_BOUNDS} different bounds of numbers in one schema are")
            written = write()
            self._numbers[kind, bounds] = written if written == NOTHING else self._grammar.new_rule(written)
        return self._numbers[kind, bounds]

    def _string(self, schema: Mapping[str, Any], place: Place) -> Expression:
        least, most = keywords.sizes(schema, "minLength", "maxLength", place)
        if "pattern" in schema and "format" in schema:
            raise (place / "format").unsupported("beside pattern it is")
        if "pattern" in schema:
            return self._matching(schema["pattern"], least, most, place / "pattern")
        if "format" in schema:
            return self._matching(
                f"^({keywords.known_format(schema['format'], place)})$", least, most, place / "format"
            )
        if most is not None and least > most:
            return NOTHING
        return strings.strings(self._character, least, most)

    def _matching(self, pattern: Any, least: int, most: int | None, place: Place) -> Expression:
        if not isinstance(pattern, str):
            raise place.wrong("it must be a string", pattern)
        with place.regex():
            regex = Regex.parse(pattern, is_schema=True)
            if not regex.keeps_length(least, most):
                raise place.unsupported("beside a minLength or maxLength that it does not keep by itself it is")
            return sequence([strings.QUOTE, regex.expression(self._grammar, strings.spelt), strings.QUOTE])

    def _array(self, schema: Mapping[str, Any], place: Place) -> Expression:
        least, most = keywords.sizes(schema, "minItems", "maxItems", place)
        prefix = schema.get("prefixItems", [])
        if not isinstance(prefix, list):
            raise (place / "prefixItems").wrong("it must be a list of schemas", prefix)
        firsts = [self._value(item, place / "prefixItems" / i) for i, item in enumerate(prefix)]
        rest = self._grammar.new_rule(
            self._value(schema.get("items", not prefix or least > len(prefix)), place / "items")
        )
        if self._grammar.rules[rest.name] == NOTHING:
            most = len(firsts) if most is None else min(most, len(firsts))
        if most is not None and least > most:
            return NOTHING
        return sequence([Text("["), _listing(firsts, rest, least, most), Text("]")])

    def _object(self, schema: Mapping[str, Any], place: Place) -> Expression:
        names, required = keywords.properties(schema, place)
        extra = schema.get("additionalProperties", not names)
        others = self._value(extra, place / "additionalProperties")
        missing = [name for name in required if name not in names]
        unnamed = schema.get("additionalProperties", True)
        members: list[tuple[Expression, bool]] = []
        for name, value in {**names, **dict.fromkeys(missing, unnamed)}.items():
            member = sequence(
                [Text(keywords.literal(name, place)), Text(":"), self._value(value, place / "properties" / name)]
            )
            if member == NOTHING and name in required:
                return NOTHING
            if member != NOTHING:
                members.append((member, name in required))
        more: Expression = NOTHING
        if others != NOTHING:
            key = strings.strings_but({*names, *missing}, self._grammar, self._character)
            more = self._grammar.new_rule(sequence([key, Text(":"), others]))
        return sequence([Text("{"), self._members(members, more), Text("}")])

    def _members(self, members: list[tuple[Expression, bool]], more: Expression) -> Expression:
        """Some of the members in their order, with commas between: told from the last one backwards."""
        begun: Expression = repeat(sequence([Text(","), more]), 0, None)  # what follows after another member
        fresh = separated(more, 0, None) if more != NOTHING else Text("")  # what follows after none
        for member, is_required in reversed(members):
            with_it = sequence([member, begun])
            fresh = with_it if is_required else choice([with_it, fresh])
            after = sequence([Text(","), member, begun])
            begun = after if is_required else choice([after, begun])
            fresh, begun = self._grammar.new_rule(fresh), self._grammar.new_rule(begun)
        return fresh


def _listing(firsts: list[Expression], rest: Expression, least: int, most: int | None) -> Expression:
    """Items with commas between, the first ones each of its own form."""
    if not firsts:
        return separated(rest, least, most)
    following = repeat(
        sequence([Text(","), rest]),
        max(0, least - len(firsts)),
        None if most is None else max(0, most - len(firsts)),
    )
    found = following
    for i in reversed(range(len(firsts))):
        if most is not None and i >= most:
            found = Text("")
            continue
        with_it = sequence([Text("," if i else ""), firsts[i], found])
        found = with_it if i < least else choice([Text(""), with_it])
    return found
