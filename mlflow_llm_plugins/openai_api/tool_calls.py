"""The calls of functions in an answer, as OpenAI's clients read them."""

from __future__ import annotations

import json
import uuid
from typing import Any

ToolCall = dict[str, Any]


def tool_calls(value: object) -> list[ToolCall]:
    """Calls as a response parser read them: one, or a list of them.

    Raises:
        ValueError: No call of a named function with arguments that are a JSON object.
    """
    calls = value if isinstance(value, list) else [value]
    if not calls:
        raise ValueError("there is no call")
    return [_tool_call(call) for call in calls]


def _tool_call(value: object) -> ToolCall:
    function = value.get("function") if isinstance(value, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str) or not name:
        raise ValueError("a call has no function with a name")
    arguments = _json_text(function.get("arguments"))
    f"{name}{arguments}".encode()  # half a surrogate pair, which JSON can write, cannot be sent
    return {"id": f"call_{uuid.uuid4().hex}", "type": "function", "function": {"name": name, "arguments": arguments}}


def _json_text(arguments: object) -> str:
    """As the model wrote it; models leave out what a function without parameters does not need."""
    parsed = json.loads(arguments) if isinstance(arguments, str) and arguments else arguments or {}
    if not isinstance(parsed, dict):
        raise ValueError("the arguments of a call are no JSON object")
    text = json.dumps(parsed, ensure_ascii=False, allow_nan=False)
    return arguments if isinstance(arguments, str) and arguments else text
