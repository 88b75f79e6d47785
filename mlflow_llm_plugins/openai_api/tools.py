"""The functions that a chat offers to the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError, UnsupportedFeatureError
from mlflow_llm_plugins.openai_api.fields import boolean, mapping, present, shown, wrong

Tool = dict[str, Any]

_NO_PARAMETERS = {"type": "object", "properties": {}}  # what OpenAI takes left out parameters for


def parse_tools(raw: Mapping[str, Any]) -> tuple[Tool, ...]:
    """Read `tools` and `tool_choice`.

    Args:
        raw: A request; its other fields are not looked at.

    Returns:
        What the model is told about, as chat templates read it: nothing where `tool_choice` is "none".

    Raises:
        InvalidInputError: A tool that is no function with a name, or two of one name.
        UnsupportedFeatureError: Tools of other kinds, or a call that the model is forced to make.
    """
    tools = _tools(raw.get("tools"))
    return tools if _may_call(raw.get("tool_choice")) else ()


def _tools(value: object) -> tuple[Tool, ...]:
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise InvalidInputError(f"tools must be a list of functions, got {type(value).__name__}.", param="tools")
    tools = tuple(_tool(f"tools[{i}]", tool) for i, tool in enumerate(value))
    names = Counter(tool["function"]["name"] for tool in tools)
    if twice := next((name for name, count in names.items() if count > 1), None):
        raise InvalidInputError(f"tools has more than one function of the name {shown(twice)}.", param="tools")
    return tools


def _tool(where: str, value: object) -> Tool:
    tool = present(mapping(where, value))
    if not isinstance(tool.get("type"), str):
        raise wrong(f"{where}.type", "'function'", tool.get("type"))
    if tool["type"] != "function":
        raise UnsupportedFeatureError(
            f"{where} has type {shown(tool['type'])}; this engine knows only 'function'.", param=where
        )
    return {**tool, "function": _function(f"{where}.function", tool.get("function"))}


def _function(where: str, value: object) -> dict[str, Any]:
    function = present(mapping(where, value))
    for name in ("name", "description"):
        if not isinstance(function.get(name, ""), str):
            raise wrong(f"{where}.{name}", "a string", function[name])
    if not function.get("name"):
        raise InvalidInputError(f"{where}.name must be a string that is not empty.", param=f"{where}.name")
    if "strict" in function and boolean(f"{where}.strict", function["strict"]):
        raise UnsupportedFeatureError(
            f"{where}.strict=True is not supported by this engine: arguments are what the model writes. Leave it out.",
            param=f"{where}.strict",
        )
    return {**function, "parameters": mapping(f"{where}.parameters", function.get("parameters", _NO_PARAMETERS))}


def _may_call(tool_choice: object) -> bool:
    if tool_choice is None or tool_choice in ("auto", "none"):
        return tool_choice != "none"
    if tool_choice == "required" or isinstance(tool_choice, Mapping):
        raise UnsupportedFeatureError(
            f"tool_choice={shown(tool_choice)} is not supported by this engine, which cannot force a call; "
            "give 'auto' or 'none'.",
            param="tool_choice",
        )
    raise wrong("tool_choice", "'auto' or 'none'", tool_choice)
