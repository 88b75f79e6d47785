"""The `input` of OpenAI's Decisions: a text, or what was said and which tools were called, as one text."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from mlflow_llm_plugins.errors import UnsupportedFeatureError
from mlflow_llm_plugins.openai_api.decisions.faults import InvalidDecisionError, read_all
from mlflow_llm_plugins.openai_api.decisions.fields import a_string, an_object, json_text, one_of, wrong_kind

_ROLES = ("user", "developer", "system", "assistant")
_TEXT_OF_PART = {"input_text": "text", "output_text": "text", "refusal": "refusal"}
_PARTS = (*_TEXT_OF_PART, "input_json", "input_image")


def conversation_text(where: str, value: object, max_depth: int) -> str:
    """One text for all of it.

    A single message of the user is its own text. Longer conversations become JSON, in which nothing that was said can
    pass for another one's words.

    Raises:
        InvalidDecisionError: No text and no list of messages, tool calls and outputs.
        UnsupportedFeatureError: Images.
    """
    if isinstance(value, str):
        return a_string(where, value)
    if not isinstance(value, list | tuple):
        raise wrong_kind(where, "a string or a list of messages, tool calls and outputs", value)
    if not value:
        raise InvalidDecisionError(f"{where} must have at least one message, tool call or output, got an empty list.")
    read = read_all(partial(_item, f"{where}[{i}]", item, max_depth) for i, item in enumerate(value))
    if len(read) == 1 and read[0].get("role") == "user":
        return str(read[0]["content"])
    return json.dumps(read, ensure_ascii=False, separators=(",", ":"))


def parts_text(where: str, value: object, max_depth: int) -> str:
    """A string, or text and JSON parts, which are joined with line breaks."""
    if not isinstance(value, list | tuple):
        return a_string(where, value)
    return "\n".join(_part(f"{where}[{i}]", part, max_depth) for i, part in enumerate(value))


def _part(where: str, value: object, max_depth: int) -> str:
    part = an_object(where, value)
    part_type = one_of(f"{where}.type", part.get("type"), _PARTS)
    if part_type == "input_image":
        raise UnsupportedFeatureError(f"{where} is an image; this engine reads text only.")
    if part_type == "input_json":
        return _data(f"{where}.data", part.get("data"), max_depth)
    name = _TEXT_OF_PART[part_type]
    return a_string(f"{where}.{name}", part.get(name))


def _data(where: str, value: object, max_depth: int) -> str:
    if not isinstance(value, dict | list | tuple):
        raise wrong_kind(where, "an object or an array", value)
    return json_text(where, value, max_depth)


def _item(where: str, value: object, max_depth: int) -> dict[str, str]:
    item = an_object(where, value)
    item_type = one_of(f"{where}.type", item.get("type") or "message", _ITEMS)
    return _ITEMS[item_type](where, item, max_depth)


def _message(where: str, item: dict[str, Any], max_depth: int) -> dict[str, str]:
    return {
        "role": one_of(f"{where}.role", item.get("role"), _ROLES),
        "content": parts_text(f"{where}.content", item.get("content"), max_depth),
    }


def _call(argument: str, where: str, item: dict[str, Any], max_depth: int) -> dict[str, str]:
    given = ["name", argument, "call_id", *(["namespace"] if item.get("namespace") else [])]
    return {"type": item["type"], **{name: a_string(f"{where}.{name}", item.get(name)) for name in given}}


def _output(where: str, item: dict[str, Any], max_depth: int) -> dict[str, str]:
    return {
        "type": item["type"],
        "call_id": a_string(f"{where}.call_id", item.get("call_id")),
        "output": parts_text(f"{where}.output", item.get("output"), max_depth),
    }


_ITEMS: dict[str, Callable[[str, dict[str, Any], int], dict[str, str]]] = {
    "message": _message,
    "function_call": partial(_call, "arguments"),
    "function_call_output": _output,
    "custom_tool_call": partial(_call, "input"),
    "custom_tool_call_output": _output,
}
