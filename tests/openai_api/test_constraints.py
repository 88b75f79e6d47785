"""The fields that say what an answer must look like come to one form, or are refused with the field that is wrong."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.generation import Constraint
from mlflow_llm_plugins.openai_api.constraints import CONSTRAINT_FIELDS, AnswerForm, parse_constraint

SCHEMA = {"type": "object", "properties": {"größe": {"type": "integer"}}}


def wrapped(**json_schema):
    return {"response_format": {"type": "json_schema", "json_schema": json_schema}}


@pytest.mark.parametrize(
    "raw",
    [
        wrapped(name="size", schema=SCHEMA, strict=True, description="how large"),
        wrapped(schema=SCHEMA),
        wrapped(schema=json.dumps(SCHEMA)),
        {"json_schema": SCHEMA},
        {"json_schema": json.dumps(SCHEMA, indent=2)},
    ],
)
def test_a_schema_comes_as_json_text_however_it_was_given(raw):
    kind, text = parse_constraint(raw)
    assert (kind, json.loads(text)) == ("json_schema", SCHEMA)


@pytest.mark.parametrize(
    ("raw", "form"),
    [
        ({"response_format": {"type": "json_object"}}, ("json_schema", '{"type": "object"}')),
        ({"json_schema": {}}, ("json_schema", "{}")),
        ({"regex": "[a-z]+\n"}, ("regex", "[a-z]+\n")),
        ({"choice": ["yes", 'say "no"']}, ("choice", ("yes", 'say "no"'))),
        ({"choice": ("yes",)}, ("choice", ("yes",))),
        ({"grammar": 'start: "a"'}, ("lark", 'start: "a"')),
        ({"response_format": {"type": "text"}, "regex": "a", "choice": []}, ("regex", "a")),
    ],
)
def test_each_field_gives_the_form_that_engines_know(raw, form):
    assert parse_constraint(raw) == AnswerForm(*form)
    assert Constraint(*parse_constraint(raw)) == Constraint(*form)


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"messages": [], "temperature": 1},
        dict.fromkeys(CONSTRAINT_FIELDS),
        {"response_format": {}, "json_schema": "", "regex": "", "choice": [], "grammar": ""},
        {"response_format": {"type": "text", "json_schema": None}},
    ],
)
def test_without_a_form_there_is_none(raw):
    assert parse_constraint(raw) is None


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        ({"response_format": "json"}, "response_format must be an object with string keys, got 'json'."),
        (
            {"response_format": {"type": "xml"}},
            "response_format.type must be 'text' or 'json_object' or 'json_schema', got 'xml'.",
        ),
        ({"response_format": {"type": ["text"]}}, "response_format.type must be 'text'"),
        ({"response_format": {"json_schema": {"schema": {}}}}, "or 'json_schema', got None."),
        (
            {"response_format": {"type": "json_object", "schema": {}}},
            "response_format of type 'json_object' cannot have 'schema'.",
        ),
        (
            {"response_format": {"type": "text", "json_schema": {"schema": {}}}},
            "response_format of type 'text' cannot have 'json_schema'.",
        ),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema must be an object"),
        (wrapped(name="x"), "response_format.json_schema.schema must be an object with string keys, got None."),
        ({"json_schema": [1]}, "json_schema must be an object with string keys, got [1]."),
        ({"json_schema": {"enum": {1}}}, "json_schema must be a JSON schema: Object of type set is not JSON serial"),
        ({"regex": 5}, "regex must be a string, got 5."),
        ({"choice": "yes"}, "choice must be a list of strings, got 'yes'."),
        ({"choice": ["yes", 1]}, "choice must be a list of strings, got ['yes', 1]."),
        ({"grammar": {"root": "x"}}, "grammar must be a string, got {'root': 'x'}."),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_where_it_stands(raw, complaint):
    with pytest.raises(InvalidInputError) as refusal:
        parse_constraint(raw)
    assert complaint in str(refusal.value)


def test_a_schema_nested_without_end_is_refused():
    schema = {}
    for _ in range(100_000):
        schema = {"items": schema}
    with pytest.raises(InvalidInputError, match=r"^json_schema is nested too deeply\.$"):
        parse_constraint({"json_schema": schema})


def test_two_forms_are_refused_by_name():
    with pytest.raises(InvalidInputError) as refusal:
        parse_constraint({"regex": "a+", "choice": ["a"], "response_format": {"type": "text"}})
    assert str(refusal.value) == (
        "regex='a+', choice=['a'] each say what the answer must look like; give one of them."
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
formats = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "json_object", "json_schema"]) | json_values},
    optional={"json_schema": json_values | st.fixed_dictionaries({"schema": json_values})},
)


@given(st.dictionaries(st.sampled_from(CONSTRAINT_FIELDS), json_values | formats, max_size=2))
def test_any_json_is_read_or_refused_and_nothing_else_happens(raw):
    with suppress(InvalidInputError):
        assert isinstance(parse_constraint(raw), AnswerForm | None)
