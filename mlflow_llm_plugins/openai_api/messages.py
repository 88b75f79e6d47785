"""The `messages` of a chat, checked and brought into the form that chat templates read.

Messages of errors name the place, never what was said.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError, UnsupportedFeatureError
from mlflow_llm_plugins.openai_api.fields import present, shown

Message = dict[str, Any]

ROLES = ("system", "developer", "user", "assistant", "tool")
_NOT_TEXT = ("audio", "function_call")  # of an assistant's message


def parse_messages(raw: object, where: str = "messages") -> tuple[Message, ...]:
    """Check a conversation.

    Args:
        raw: A list of messages with `role` and `content`, as OpenAI's API takes them. Text parts are joined
            with line breaks, as most templates read strings only.
        where: What the messages are called in errors.

    Returns:
        Messages without nulls, as transformers hands them to templates, every content a string, the arguments of
        tool calls parsed.

    Raises:
        InvalidInputError: No list, an empty one, an unknown role, or content that is no text.
        UnsupportedFeatureError: Images, audio or files.
    """
    if not isinstance(raw, list | tuple):
        raise InvalidInputError(f"{where} must be a list of messages, got {type(raw).__name__}.", param=where)
    if not raw:
        raise InvalidInputError(f"{where} must have at least one message, got an empty list.", param=where)
    return tuple(_message(message, f"{where}[{i}]") for i, message in enumerate(raw))


def _message(raw: object, where: str) -> Message:
    if not isinstance(raw, Mapping):
        raise InvalidInputError(
            f"{where} must be an object with role and content, got {type(raw).__name__}.", param=where
        )
    message = present(raw)
    if message.get("tool_calls") in ([], ()):
        del message["tool_calls"]
    if message.get("role") not in ROLES:
        raise InvalidInputError(
            f"{where}.role must be one of {', '.join(ROLES)}, got {shown(message.get('role'))}.", param=f"{where}.role"
        )
    for name in _NOT_TEXT:
        if name in message:
            raise UnsupportedFeatureError(f"{where}.{name} is not supported by this engine.", param=f"{where}.{name}")
    if "tool_calls" in message:
        message["tool_calls"] = _tool_calls(message["tool_calls"], f"{where}.tool_calls")
    if "content" in message or "tool_calls" not in message:
        message["content"] = _text(message.get("content"), f"{where}.content")
    return message


def _text(content: object, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list | tuple):
        raise InvalidInputError(
            f"{where} must be a string or a list of text parts, got {type(content).__name__}.", param=where
        )
    return "\n".join(_part(part, f"{where}[{i}]") for i, part in enumerate(content))


def _part(part: object, where: str) -> str:
    if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
        raise InvalidInputError(f'{where} must be an object such as {{"type": "text", "text": "..."}}.', param=where)
    if part["type"] != "text":
        raise UnsupportedFeatureError(
            f"{where} has type {shown(part['type'])}; this engine reads only 'text' parts.", param=where
        )
    if not isinstance(part.get("text"), str):
        raise InvalidInputError(
            f"{where}.text must be a string, got {type(part.get('text')).__name__}.", param=f"{where}.text"
        )
    return str(part["text"])


def _tool_calls(calls: object, where: str) -> list[dict[str, Any]]:
    if not isinstance(calls, list | tuple):
        raise InvalidInputError(f"{where} must be a list, got {type(calls).__name__}.", param=where)
    return [_tool_call(call, f"{where}[{i}]") for i, call in enumerate(calls)]


def _tool_call(call: object, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping):
        raise InvalidInputError(f"{where} must be an object with a function that has name and arguments.", param=where)
    arguments = _arguments(function.get("arguments"), f"{where}.function.arguments")
    return {**call, "function": {**function, "arguments": arguments}}


def _arguments(arguments: object, where: str) -> object:
    """Templates write arguments with `tojson`; OpenAI's clients send them as JSON text already."""
    if not isinstance(arguments, str):
        return arguments
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments
    except RecursionError:
        raise InvalidInputError(f"{where} is nested too deeply.", param=where) from None
