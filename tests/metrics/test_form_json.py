"""Whether answers are JSON, and as a schema wants it."""

from __future__ import annotations

import itertools
import json
import math
import time

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.metrics.form.json_text import is_valid_json
from mlflow_llm_plugins.metrics.form.schema import SchemaCheck
from mlflow_llm_plugins.metrics.metric import NotScoredError

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=15)
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "scores": {"type": "array", "items": {"type": "integer", "minimum": 1}},
    },
    "required": ["name"],
    "additionalProperties": {"type": "boolean"},
}


@given(VALUES, st.sampled_from([None, 2]), st.booleans(), st.sampled_from(["", " ", "\n\t\r "]))
def test_what_python_writes_as_json_is_valid(value, indent, ascii_only, around):
    text = around + json.dumps(value, indent=indent, ensure_ascii=ascii_only) + around
    assert is_valid_json()([text]).scores == [1.0]
    assert is_valid_json(allow_fence=True)([text, f"```json\n{text}\n```"]).scores == [1.0, 1.0]
    assert is_valid_json(True)([text]).scores == [1.0]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not JSON: Expecting value, line 1 column 1"),
        ("{'a': 1}", "not JSON: Expecting property name enclosed in double quotes, line 1 column 2"),
        ('{"a": 1}\n{"b": 2}', "not JSON: Extra data, line 2 column 1"),
        ('["secret words \\x"]', "not JSON: Invalid \\escape, line 1 column 16"),
        ("[NaN]", "not JSON: NaN is no JSON value"),
        ("-Infinity", "not JSON: -Infinity is no JSON value"),
        ("\ufeff{}", "not JSON: Unexpected UTF-8 BOM (decode using utf-8-sig), line 1 column 1"),
        ("٣", "not JSON: Expecting value, line 1 column 1"),
    ],
)
def test_what_is_not_json_is_told_with_its_place_and_without_its_words(text, why):
    result = is_valid_json()([text])
    assert (result.scores, result.justifications) == ([0.0], [why])


@pytest.mark.parametrize("text", ["9" * 100_000, "1e999", '{"a": 1, "a": 2}', r'"\ud800"', '"\ud800"'])
def test_what_the_grammar_allows_is_valid_even_where_python_has_no_such_value(text):
    assert is_valid_json()([text]).scores == [1.0]


def test_what_is_nested_too_deeply_to_be_parsed_has_no_score():
    result = is_valid_json()(["[" * 100_000 + "]" * 100_000, "[]"])
    assert math.isnan(result.scores[0])
    assert result.justifications == ["the prediction is nested too deeply to be parsed", None]


def test_an_integer_too_long_for_python_has_no_score_under_a_schema():
    result = is_valid_json({"type": "integer"})(["9" * 100_000, "9"])
    expected = "the prediction has an integer too long to be compared with a schema"
    assert result.justifications == [expected, None]
    assert result.scores[1] == 1.0


def test_a_number_too_large_to_be_divided_has_no_score():
    result = is_valid_json({"multipleOf": 0.5})(["1e400", "-1e400", "9" * 400 + ".5", "3"])
    expected = "the prediction has a number too large to be checked against the schema"
    assert result.justifications == [expected, expected, expected, None]
    assert result.scores[3] == 1.0


@pytest.mark.parametrize(
    ("text", "bare", "fenced"),
    [
        ("```json\n[1]\n```", 0.0, 1.0),
        ("```\n[1]\n```  \n", 0.0, 1.0),
        ("~~~~JSON\n[1]\n~~~~", 0.0, 1.0),
        ("```json\r\n[1]\r\n```", 0.0, 1.0),
        ("Here you are:\n```json\n[1]\n```", 0.0, 0.0),
        ("```json\n[1]\n```\nAnything else?", 0.0, 0.0),
        ("```json\n[1]\n```\n```json\n[2]\n```", 0.0, 0.0),
        ("```json\n[1\n```", 0.0, 0.0),
        ("> ```json\n> [1]\n> ```", 0.0, 1.0),
        ("- ```json\n  [1]\n  ```", 0.0, 0.0),
        ("> 1. ```json\n>    [1]\n>    ```", 0.0, 0.0),
        ('["```"]', 1.0, 1.0),
    ],
)
def test_a_fence_is_allowed_only_where_asked_for_and_around_the_whole_answer(text, bare, fenced):
    assert is_valid_json()([text]).scores == [bare]
    assert is_valid_json(allow_fence=True)([text]).scores == [fenced]


@given(st.dictionaries(st.sampled_from(["name", "scores", "more"]), VALUES, max_size=3))
def test_a_schema_decides_as_the_library_does(value):
    expected = jsonschema.Draft202012Validator(PERSON).is_valid(value)
    assert is_valid_json(PERSON)([json.dumps(value)]).scores == [float(expected)]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({"name": "Ada", "scores": [3, 0]}, "$.scores[1] breaks the rule minimum: 1"),
        ({"name": 7}, '$.name breaks the rule type: "string"'),
        ({"scores": []}, '$ breaks the rule required: ["name"]'),
        ({"name": "Ada", "my own words": "x"}, '$.* breaks the rule type: "boolean"'),
    ],
)
def test_the_broken_rule_is_told_with_its_place_and_without_the_answers_words(value, why):
    result = is_valid_json(PERSON)([json.dumps(value)])
    assert (result.scores, result.justifications) == ([0.0], [why])


def test_what_a_schema_forbids_as_a_whole_is_told_too():
    result = is_valid_json({"properties": {"a": False}})(['{"a": 1}', '{"b": 1}'])
    assert result.justifications == ["$ holds what the schema forbids", None]


def test_a_long_rule_is_cut_in_the_reason():
    words = [f"word{number}" for number in range(100)]
    [reason] = is_valid_json({"enum": words})(['"other"']).justifications
    assert reason == f"$ breaks the rule enum: {json.dumps(words)[:60]}..."


def test_a_schema_may_refer_to_its_own_parts_and_to_itself():
    tree = {"$id": "https://example.org/tree", "$ref": "#/$defs/node", "$defs": {
        "node": {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/node"}}}},
    }}  # fmt: skip
    result = is_valid_json(tree)(['{"children": [{"children": []}]}', '{"children": [{"children": [7]}]}'])
    assert result.scores == [1.0, 0.0]
    assert result.justifications[1] == '$.children[0].children[0] breaks the rule type: "object"'


def test_the_draft_that_the_schema_names_is_used():
    schema = {"$schema": "http://json-schema.org/draft-04/schema#", "minimum": 3, "exclusiveMinimum": True}
    assert is_valid_json(schema)(["3", "4"]).scores == [0.0, 1.0]


@pytest.mark.parametrize(
    "schema",
    [
        {"items": {"pattern": "(x+x+)+y"}},
        {"items": {"$ref": "#/$defs/word"}, "$defs": {"word": {"pattern": "(x+x+)+y"}}},
        {"$schema": "https://json-schema.org/draft/2020-12/schema", "items": {"pattern": "(x+x+)+y"}},
        {"items": {"patternProperties": {"(x+x+)+y": {"type": "null"}}}},
        {"items": {"patternProperties": {"(x+x+)+y": True}, "additionalProperties": False}},
        {"items": {"propertyNames": {"pattern": "(x+x+)+y"}}},
    ],
)
def test_a_pattern_of_the_schema_that_would_run_for_years_is_given_up(schema):
    def value(word):
        return [word, {word: 1}]

    check = SchemaCheck(schema, seconds=0.2)
    started = time.monotonic()
    with pytest.raises(NotScoredError, match=r"^to check it against the schema takes longer than 0\.2 s$"):
        check(value("x" * 5_000))
    assert time.monotonic() - started < 5
    assert check(value("xxy")) != check(value("b"))  # one of them breaks the rule


def test_the_time_is_that_of_a_whole_value_not_of_each_string_in_it():
    check = SchemaCheck({"items": {"pattern": "(x+x+)+y"}}, seconds=0.2)
    assert check(["x" * 20]) is not None  # in much less
    started = time.monotonic()
    with pytest.raises(NotScoredError, match=r"takes longer than 0\.2 s$"):
        check(["x" * 20] * 100_000)
    assert time.monotonic() - started < 5


def test_a_value_that_would_be_tried_in_endless_ways_is_given_up_and_its_neighbours_are_scored():
    tree = {"anyOf": [{"items": {"$ref": "#"}, "minItems": 1}] * 4, "type": "array"}
    started = time.monotonic()
    result = is_valid_json(tree)(["[[]]", "[" * 30 + "]" * 30, "[]"])
    assert time.monotonic() - started < 8
    assert [result.scores[0], result.scores[2]] == [0.0, 0.0]
    assert result.justifications[1] == "to check it against the schema takes longer than 2 s"


def test_many_items_that_are_objects_are_compared_in_time():
    rows = [{"number": number, "more": [number]} for number in range(10_000)]
    result = is_valid_json({"uniqueItems": True})([json.dumps(rows), json.dumps([*rows, rows[0]])])
    assert result.scores == [1.0, 0.0]
    assert result.justifications == [None, "$ breaks the rule uniqueItems: true"]


@pytest.mark.parametrize("schema", [{"$ref": "#"}, {"items": {"$ref": "#"}}])
def test_what_never_ends_or_is_nested_too_deeply_for_the_check_has_no_score(schema):
    result = is_valid_json(schema)(["[" * 500 + "]" * 500])
    assert result.justifications == ["the prediction or the schema is nested too deeply to be checked"]


@given(
    st.lists(st.integers(0, 1) | st.booleans() | st.sampled_from([0.0, 1.0, -0.0, "0", None]) | VALUES, max_size=4),
    st.sampled_from([lambda item: item, lambda item: [item], lambda item: {"a": item}]),
)
def test_items_are_equal_where_the_library_calls_one_the_constant_of_the_other(items, wrap):
    """Its own uniqueItems sorts, and so overlooks that the first of [false], [0], [false] comes again."""
    value = [wrap(item) for item in items]
    equal = any(
        jsonschema.Draft202012Validator({"const": left}).is_valid(right)
        for left, right in itertools.combinations(value, 2)
    )
    assert is_valid_json({"uniqueItems": True})([json.dumps(value)]).scores == [float(not equal)]


@settings(max_examples=40)
@pytest.mark.parametrize("draft", ["draft-04/schema#", "draft-06/schema#", "draft-07/schema#", "draft/2020-12/schema"])
@given(
    value=st.dictionaries(st.text("ab1", max_size=3), st.integers(0, 3) | st.booleans(), max_size=4),
    patterns=st.dictionaries(st.sampled_from(["^a", "b$", r"\\d", "b1|a"]), st.sampled_from([{"type": "integer"},
                             {"maximum": 1}]), max_size=2),
    more=st.sampled_from([None, True, False, {"minimum": 2}]),
)  # fmt: skip
def test_rules_for_names_by_pattern_decide_as_the_library_does(draft, value, patterns, more):
    schema = {"$schema": f"http://json-schema.org/{draft}", "properties": {"a": {}}, "patternProperties": patterns}
    if draft.startswith("draft/"):
        schema["$schema"] = f"https://json-schema.org/{draft}"
    if more is not None:
        schema["additionalProperties"] = more
    expected = jsonschema.validators.validator_for(schema)(schema).is_valid(value)
    assert is_valid_json(schema)([json.dumps(value)]).scores == [float(expected)]


@pytest.mark.parametrize(
    ("pattern", "fits", "does_not"),
    [(r"^\p{L}{1,5}$", "Zoë", "Zoë2"), (r"^(?<year>\d{4})$", "1815", "MDCCCXV"), (r"(?<=a+)b", "aab", "b")],
)
def test_patterns_may_be_all_that_regex_knows_and_re_does_not(pattern, fits, does_not):
    values = [json.dumps(fits), json.dumps(does_not)]
    assert is_valid_json({"pattern": pattern})(values).scores == [1.0, 0.0]
    names = [json.dumps({fits: 1}), json.dumps({does_not: 1})]
    schema = {"patternProperties": {pattern: True}, "additionalProperties": False}
    assert is_valid_json(schema)(names).scores == [1.0, 0.0]


def test_rules_for_names_are_told_without_the_names():
    schema = {"patternProperties": {"^x-": {"type": "string"}}, "additionalProperties": False}
    result = is_valid_json(schema)(['{"x-my words": 7}', '{"other words": 7}', '{"x-my words": ""}'])
    assert result.justifications == [
        '$.* breaks the rule type: "string"',
        "$ breaks the rule additionalProperties: false",
        None,
    ]


def test_properties_that_no_rule_has_looked_at_can_be_refused():
    schema = {"allOf": [{"properties": {"a": {}}}], "unevaluatedProperties": False}
    assert is_valid_json(schema)(['{"a": 1}', '{"b": 1}']).scores == [1.0, 0.0]


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ('{"type": "object"}', "schema must be a JSON Schema as a dictionary, got str."),
        ({"const": {1, 2}}, "schema cannot be written as JSON: Object of type set is not JSON serializable."),
        (
            {"type": "objct"},
            "schema is no JSON Schema: 'objct' is not valid under any of the given schemas, at $.type.",
        ),
        ({"pattern": "("}, "schema is no JSON Schema: '(' is not a 'regex', at $.pattern."),
        (
            {"items": {"patternProperties": {r"\p{Klingon}": True}}},
            r"schema is no JSON Schema: '\\p{Klingon}' is not a 'regex', at $.items.patternProperties.",
        ),
        (
            {"properties": {"a": {"$ref": "#/$defs/missing"}, "b": {"$ref": "https://example.org/other.json"}}},
            "schema refers to what it does not hold: #/$defs/missing, https://example.org/other.json. "
            "Put it under $defs.",
        ),
        (
            {"items": {"$dynamicRef": "#missing"}},
            "schema refers to what it does not hold: #missing. Put it under $defs.",
        ),
        (
            {"$defs": {"old": {"$schema": "http://json-schema.org/draft-04/schema#", "pattern": "a"}}},
            "schema has a $schema below its root, where it cannot be followed. Leave that out.",
        ),
        (
            {"allOf": [{"patternProperties": {"a": {}}}], "unevaluatedProperties": False},
            "schema has patternProperties and unevaluatedProperties, which cannot be checked together in a limited "
            "time. Use additionalProperties instead of unevaluatedProperties, or name the properties.",
        ),
    ],
)
def test_what_is_no_usable_schema_is_refused_when_the_metric_is_made(schema, message):
    with pytest.raises(InvalidInputError) as error:
        is_valid_json(schema)
    assert str(error.value) == message


def test_the_schema_is_kept_for_the_log_and_later_changes_to_it_do_not_count():
    schema = {"type": "integer"}
    metric = is_valid_json(schema)
    schema["type"] = "string"
    assert metric.metric_metadata == {"schema": {"type": "integer"}, "allow_fence": False}
    assert metric(["1", '"1"']).scores == [1.0, 0.0]
