"""The functions that a chat offers are read, or refused by name."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_llm_plugins.errors import InvalidInputError, UnsupportedFeatureError
from mlflow_llm_plugins.openai_api.tools import parse_tools

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def function(**fields):
    return {"tools": [{"type": "function", "function": {"name": "f", **fields}}]}


def test_functions_reach_the_template_as_they_are():
    assert parse_tools({"tools": [WEATHER]}) == (WEATHER,)
    assert parse_tools({"tools": [WEATHER], "tool_choice": "auto"}) == (WEATHER,)


@pytest.mark.parametrize("parameters", [{}, {"parameters": None}])
def test_a_function_without_parameters_takes_none(parameters):
    (tool,) = parse_tools(function(**parameters, strict=False, description=None))
    assert tool["function"] == {"name": "f", "strict": False, "parameters": {"type": "object", "properties": {}}}


@pytest.mark.parametrize(
    "raw", [{}, {"tools": None}, {"tools": []}, {"tool_choice": "auto"}, {"tools": [WEATHER], "tool_choice": "none"}]
)
def test_where_nothing_may_be_called_the_model_is_told_of_nothing(raw):
    assert parse_tools(raw) == ()


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        ({"tools": {}}, "tools must be a list of functions, got dict."),
        ({"tools": ["f"]}, "tools[0] must be an object with string keys, got 'f'."),
        ({"tools": [{"function": {"name": "f"}}]}, "tools[0].type must be 'function', got None."),
        (
            {"tools": [WEATHER, {"type": "function"}]},
            "tools[1].function must be an object with string keys, got None.",
        ),
        (function(name=""), "tools[0].function.name must be a string that is not empty."),
        (function(name=None), "tools[0].function.name must be a string that is not empty."),
        (function(name=1), "tools[0].function.name must be a string, got 1."),
        (function(description=1), "tools[0].function.description must be a string, got 1."),
        (function(parameters=[]), "tools[0].function.parameters must be an object with string keys, got []."),
        (function(strict="yes"), "tools[0].function.strict must be true or false, got 'yes'."),
        ({"tools": [WEATHER, WEATHER]}, "tools has more than one function of the name 'get_weather'."),
        ({"tool_choice": "any"}, "tool_choice must be 'auto' or 'none', got 'any'."),
        ({"tool_choice": 1}, "tool_choice must be 'auto' or 'none', got 1."),
    ],
)
def test_what_is_no_function_is_refused_with_its_place(raw, complaint):
    with pytest.raises(InvalidInputError) as refusal:
        parse_tools(raw)
    assert str(refusal.value) == complaint


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (
            {"tools": [WEATHER], "tool_choice": "required"},
            "tool_choice='required' is not supported by this engine, which cannot force a call; "
            "give 'auto' or 'none'.",
        ),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "function"}},
            "tool_choice={'type': 'function'} is not supported by this engine, which cannot force a call; "
            "give 'auto' or 'none'.",
        ),
        ({"tools": [{"type": "custom"}]}, "tools[0] has type 'custom'; this engine knows only 'function'."),
        (
            function(strict=True),
            "tools[0].function.strict=True is not supported by this engine: arguments are what the model writes. "
            "Leave it out.",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(raw, complaint):
    with pytest.raises(UnsupportedFeatureError) as refusal:
        parse_tools(raw)
    assert str(refusal.value) == complaint


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
tools = st.lists(st.fixed_dictionaries({"type": st.just("function"), "function": json_values}), max_size=2)


@given(tools=json_values | tools, tool_choice=json_values)
def test_any_json_is_read_or_refused_and_nothing_else_happens(tools, tool_choice):
    with suppress(InvalidInputError):
        assert isinstance(parse_tools({"tools": tools, "tool_choice": tool_choice}), tuple)
