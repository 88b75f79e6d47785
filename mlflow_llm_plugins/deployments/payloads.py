"""What a caller gives to `predict`, as the request that is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_llm_plugins.deployments.json_values import json_value
from mlflow_llm_plugins.errors import InvalidInputError, UnsupportedFeatureError

INVOCATIONS = "/invocations"
OUR_ROUTES = {"messages": "/v1/chat/completions", "prompt": "/v1/completions"}  # by the key that asks for it
TABLES = ("inputs", "instances", "dataframe_split", "dataframe_records")  # what MLflow's server makes rows of
UNWRAPPED = ("messages", "prompt", "input")  # what it hands to a model as it is
KEYS = frozenset({*TABLES, *UNWRAPPED})

_ALLOWED = "a string, a number, a list, a dict, a numpy array, a Series or a DataFrame"


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent to a server."""

    path: str
    body: dict[str, Any]  # of JSON's own types


def request_of(inputs: object, is_ours: bool) -> Request:
    """The request for a whole answer.

    Args:
        inputs: A dict with messages, prompt, or a payload of MLflow's scoring server; or rows: a string, a list, an
            array, a Series or a DataFrame. A list of messages is one chat. Not changed.
        is_ours: Whether the server has the routes of OpenAI's API.

    Raises:
        InvalidInputError: It is none of these, or cannot be sent as JSON; says what can.
    """
    body = _body(inputs, is_ours)
    if body.get("stream"):
        raise InvalidInputError("stream=True: predict gives whole answers. Leave it out, or call predict_stream.")
    return Request(_path(body, is_ours), body)


def stream_request_of(inputs: object, is_ours: bool) -> Request:
    """The request for an answer piece by piece.

    Args:
        inputs: A dict with messages or prompt, a list of messages, or a string, which is a prompt.
        is_ours: As in `request_of`.

    Raises:
        UnsupportedFeatureError: Other flavors cannot stream.
        InvalidInputError: `inputs` is not one request; says what is.
    """
    if not is_ours:
        raise UnsupportedFeatureError(
            "Streams need a quantized LLM, and this deployment is of another flavor; call predict."
        )
    body = _body({"prompt": inputs} if isinstance(inputs, str) else inputs, is_ours)
    path = _path(body, is_ours)
    if path == INVOCATIONS:
        raise InvalidInputError(
            "A stream answers one request: give a string, a list of messages, or a dict with messages or prompt."
        )
    return Request(path, {**body, "stream": True})


def is_chat(value: object) -> bool:
    """Whether it is a list of the messages of one chat."""
    return isinstance(value, list) and bool(value) and all(_is_message(item) for item in value)


def _is_message(item: object) -> bool:
    return isinstance(item, Mapping) and "role" in item and ("content" in item or "tool_calls" in item)


def _path(body: Mapping[str, Any], is_ours: bool) -> str:
    return next((path for key, path in OUR_ROUTES.items() if is_ours and key in body), INVOCATIONS)


def _body(inputs: object, is_ours: bool) -> dict[str, Any]:
    if isinstance(inputs, Mapping):
        return _of_mapping(inputs, is_ours)
    if not isinstance(inputs, str | list | tuple) and _is_frame(inputs):
        return {"dataframe_split": _split(inputs)}
    value = json_value(inputs)
    if value is None:
        raise InvalidInputError(f"inputs must be {_ALLOWED}; got {inputs!r}.")
    if is_chat(value):
        return {"messages": value}
    return {"inputs": value if isinstance(value, list) else [value]}


def _of_mapping(inputs: Mapping[Any, Any], is_ours: bool) -> dict[str, Any]:
    taken = (*TABLES, *(OUR_ROUTES if is_ours else UNWRAPPED))
    if not any(key in inputs for key in taken):
        found = ", ".join(map(repr, inputs)) or "none"
        raise InvalidInputError(f"inputs: a dict must have one of {', '.join(taken)}; its keys are: {found}.")
    body: dict[str, Any] = json_value(inputs)
    return {**body, "inputs": [body["inputs"]]} if isinstance(body.get("inputs"), str) else body


def _is_frame(inputs: object) -> bool:
    import pandas as pd

    return isinstance(inputs, pd.DataFrame)


def _split(frame: Any) -> dict[str, Any]:
    """Columns and rows without the index, as MLflow writes its input examples."""
    if frame.columns.nlevels > 1 or not frame.columns.is_unique:
        raise InvalidInputError("inputs: the columns of a DataFrame must have one name each, and no two the same.")
    split = frame.to_dict(orient="split")
    return {name: json_value(split[name]) for name in ("columns", "data")}
