"""Calls are OpenAI's where they are calls at all."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_llm_plugins.openai_api.tool_calls import tool_calls


def call(**function):
    return {"type": "function", "function": function}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"city": "Köln", "days": 2}, '{"city": "Köln", "days": 2}'),
        ('{"city":"Oslo"}', '{"city":"Oslo"}'),  # as the model wrote it
        ({}, "{}"),
        ("", "{}"),
        (None, "{}"),
    ],
)
def test_arguments_are_json_text(arguments, text):
    (made,) = tool_calls(call(name="f", arguments=arguments))
    assert made["function"] == {"name": "f", "arguments": text}
    assert made["type"] == "function"


def test_each_call_has_an_id_of_its_own():
    made = tool_calls([call(name="f"), call(name="f")])
    assert len({one["id"] for one in made}) == 2
    assert all(one["id"].startswith("call_") for one in made)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([], "there is no call"),
        ("f()", "a call has no function with a name"),
        ({"name": "f"}, "a call has no function with a name"),
        (call(name=""), "a call has no function with a name"),
        (call(name=1, arguments={}), "a call has no function with a name"),
        (call(name="f", arguments=[1]), "the arguments of a call are no JSON object"),
        (call(name="f", arguments="1"), "the arguments of a call are no JSON object"),
        (call(name="f", arguments="{city"), "Expecting property name"),
        (call(name="f", arguments={"x": float("nan")}), "Out of range float values"),
        (call(name="f", arguments='{"x": NaN}'), "Out of range float values"),
        (call(name="f", arguments={"x": "\ud800"}), "surrogates not allowed"),
    ],
)
def test_what_is_no_call_is_an_error(value, reason):
    with pytest.raises(ValueError, match=reason):
        tool_calls(value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(arguments=st.dictionaries(st.text(), json_values, min_size=1))
def test_arguments_arrive_as_they_were(arguments):
    (made,) = tool_calls(call(name="f", arguments=arguments))
    assert json.loads(made["function"]["arguments"]) == arguments
