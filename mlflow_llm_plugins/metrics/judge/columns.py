"""The columns of the data that a judge sees: names, cells as text, and the signature that MLflow reads."""

from __future__ import annotations

import inspect
import json
import keyword
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.metrics.metric import NotScoredError, is_missing

PREDICTIONS = "predictions"
TARGETS = "targets"
_SECTIONS = {"inputs": "question", PREDICTIONS: "answer", TARGETS: "reference answer", "context": "context"}
_TAKEN = ("engine", "metrics")  # what MLflow and the evaluator `llm` give under these names is no column


def check_columns(columns: object) -> tuple[str, ...]:
    """Refuse what cannot be the names of columns.

    Raises:
        InvalidInputError: No names, a name twice, one that MLflow could not pass to a metric, or two that the prompt
            would call the same.
    """
    names = (columns,) if isinstance(columns, str) else tuple(columns) if isinstance(columns, list | tuple) else ()
    if not names or not all(isinstance(name, str) for name in names):
        raise InvalidInputError(f"columns must be a list of names such as ('inputs', 'predictions'), got {columns!r}.")
    if len(set(names)) < len(names) or set(names) == {TARGETS}:
        raise InvalidInputError(f"columns must be different names, one at least besides targets, got {columns!r}.")
    for name in names:
        if not name.isidentifier() or keyword.iskeyword(name) or name in _TAKEN:
            raise InvalidInputError(
                f"columns: {name!r} cannot be passed to a metric. {renaming('it', name, 'context')}"
            )
    _check_sections(names)
    return names


def renaming(which: str, column: str, otherwise: str) -> str:
    """What to do about a name of a column that cannot be had."""
    return (
        f"Call {which} otherwise in columns, for example {otherwise!r}, and map that to your column: "
        f"evaluator_config={{'col_mapping': {{{otherwise!r}: {column!r}}}}}."
    )


def section_name(column: str) -> str:
    """What the prompt calls a column."""
    return _SECTIONS.get(column, column.replace("_", " ").strip() or column)


def _check_sections(columns: Sequence[str]) -> None:
    sections = [section_name(column) for column in columns]
    for section in sections:
        if sections.count(section) > 1:
            column = [name for name in columns if section_name(name) == section and name not in _SECTIONS][-1]
            raise InvalidInputError(
                f"columns: the prompt would call two of them {section!r}, got {columns!r}. "
                f"{renaming('one', column, 'other')}"
            )


def signature(columns: Sequence[str]) -> inspect.Signature:
    """The parameters of the metric: the predictions first, then the other columns, then what is optional.

    The targets are wanted for control rows even where the judge does not see them. With fewer than three parameters
    MLflow's default evaluator may take the metric for one of the older form (3.17).
    """
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    needed = sorted(columns, key=lambda name: name != PREDICTIONS)
    optional = [*([] if TARGETS in needed else [TARGETS]), "engine"]
    parameters = [inspect.Parameter(name, kind) for name in needed]
    return inspect.Signature([*parameters, *(inspect.Parameter(name, kind, default=None) for name in optional)])


def cell_text(cell: object, name: str) -> str:
    """A cell as the judge reads it: messages with their roles, several texts one after the other, other data as JSON.

    Of messages the content is shown, and the calls of tools with their arguments.

    Raises:
        NotScoredError: It is missing, or nothing that could be shown.
    """
    if is_missing(cell):
        raise NotScoredError(f"the {name} is missing")
    value = _without_numpy(cell)
    if isinstance(value, Mapping) and isinstance(value.get("messages"), list):
        value = value["messages"]
    return _utf8(_shown(value, name))


def _shown(value: Any, name: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and value:
        if all(isinstance(item, str) for item in value):
            return "\n\n".join(value)
        if all(isinstance(item, Mapping) and isinstance(item.get("role"), str) for item in value):
            return "\n\n".join(_message(message, name) for message in value)
    if isinstance(value, int | float | Mapping | list | tuple):
        return _json(value, name)
    raise NotScoredError(f"the {name} is of type {type(value).__name__}, not text")


def _message(message: Mapping[str, Any], name: str) -> str:
    content = _without_numpy(message.get("content"))
    calls = [f"calls {_call(call, name)}" for call in _calls(message)]
    is_silent = content == "" if isinstance(content, str) else is_missing(content)
    said = [] if calls and is_silent else [content if isinstance(content, str) else _json(content, name)]
    return f"{message['role']}: " + "\n".join([*said, *calls])


def _calls(message: Mapping[str, Any]) -> list[Any]:
    """Of tools, in the form of OpenAI's chats, or in their older one; there may be None under these keys."""
    found: list[Any] = []
    for key in ("tool_calls", "function_call"):
        calls = _without_numpy(message.get(key))
        if not is_missing(calls):
            found += calls if isinstance(calls, list | tuple) else [calls]
    return found


def _call(call: Any, name: str) -> str:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not {"name", "arguments"} <= set(function):
        return _json(call, name)
    arguments = function["arguments"]
    return f"{function['name']}({arguments if isinstance(arguments, str) else _json(arguments, name)})"


def _without_numpy(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def _json(value: Any, name: str) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except Exception as error:  # keys that are no strings, cycles, depth, or what an object's own __str__ raises
        raise NotScoredError(f"the {name} cannot be shown as text ({type(error).__name__})") from error


def _utf8(text: str) -> str:
    """Half a surrogate pair, which no tokenizer takes, becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")
