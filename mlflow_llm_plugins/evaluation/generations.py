"""Prompts, parameters and answers as a table of a run, outside evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd

from mlflow_llm_plugins.errors import InvalidInputError, mlflow_errors
from mlflow_llm_plugins.evaluation.results.cells import json_value
from mlflow_llm_plugins.evaluation.results.growing_table import add_rows
from mlflow_llm_plugins.metrics.metric import is_missing

_COLUMNS = ("inputs", "outputs", "model", "params", "prompt_tokens", "completion_tokens", "latency")


def log_generations(
    inputs: Any,
    outputs: Any,
    *,
    params: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None = None,
    prompt_tokens: int | Sequence[int | None] | None = None,
    completion_tokens: int | Sequence[int | None] | None = None,
    latency: float | Sequence[float | None] | None = None,
    model: str | Sequence[str | None] | None = None,
    columns: Mapping[str, Sequence[Any]] | None = None,
    artifact_file: str = "generations.json",
    run_id: str | None = None,
) -> pd.DataFrame:
    """Log what a model was asked and what it answered, as a table that MLflow's UI shows.

    The table has the columns `inputs`, `outputs`, `model`, `params`, `prompt_tokens`, `completion_tokens`, `latency`
    and those of `columns`; what is not known is None. Later calls with the same file add their rows.
    `mlflow.load_table(artifact_file)` reads it. Without a run, one is started and stays active, as with MLflow's own
    `log_table`. Not for several threads at once on one file.

    Args:
        inputs: A prompt, a conversation (a list of messages), or a list of either, one a row.
        outputs: An answer, or a list with one a row: strings, OpenAI responses (`chat.completion` or
            `text_completion`, as dictionaries or the client's objects), or what the engine returns. Text, model,
            token counts and latency are taken from them. None: there was no answer.
        params: Of generation, the same for all rows or a list with one a row.
        prompt_tokens: One a row; counts in `outputs` fill the gaps. So for the next three.
        completion_tokens: One a row.
        latency: Seconds until the whole answer was there, one a row.
        model: The name for all rows, or one a row.
        columns: More columns, one value a row.
        artifact_file: Ends in .json; folders may come before.
        run_id: A run other than the active one.

    Returns:
        The rows of this call.

    Raises:
        MlflowException: Lengths differ, a count or latency is no number, a name of `columns` is taken, or the file
            is no table of JSON.
    """
    with mlflow_errors():
        _check_file(artifact_file)
        prompts = _rows(inputs, "inputs")
        answers = [_Answer(output) for output in _rows(outputs, "outputs")]
        _check_length("outputs", len(answers), len(prompts))
        measured = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "latency": latency}
        table = {
            "inputs": prompts,
            "outputs": [answer.text for answer in answers],
            "model": _filled("model", [model] * len(prompts) if isinstance(model, str) else model, answers),
            "params": _params(params, len(prompts)),
            **{name: _numbers(name, values, answers) for name, values in measured.items()},
            **_others({} if columns is None else columns, len(prompts)),
        }
        logged = {name: [json_value(cell) for cell in cells] for name, cells in table.items()}
        add_rows(run_id or _active_run_id(), artifact_file, logged)
    return pd.DataFrame(logged, dtype=object)


class _Answer:
    """What one output says of itself; attributes have the names of columns."""

    def __init__(self, output: Any) -> None:
        usage = _field(output, "usage")
        times = _field(output, "token_times")
        self.text = _text(output)
        self.model = _field(output, "model")
        counted = output if usage is None else usage
        self.prompt_tokens = _field(counted, "prompt_tokens")
        self.completion_tokens = _field(counted, "completion_tokens")
        self.latency = times[-1] if times is not None and len(times) else None


def _text(output: Any) -> Any:
    """The answer's text, one for each choice if there are several; what has none, as it is."""
    choices = _field(output, "choices")
    if not choices:
        text = None if isinstance(output, Mapping) else _field(output, "text")
        return output if text is None else text
    texts = [_choice_text(choice) for choice in choices]
    return texts[0] if len(texts) == 1 else texts


def _choice_text(choice: Any) -> Any:
    message = _field(choice, "message")
    if message is None:
        return _field(choice, "text")
    content = _field(message, "content")
    return message if content is None else content  # calls of tools


def _field(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)


def _rows(values: Any, name: str) -> list[Any]:
    """A list with one value a row; a single value is one row."""
    if isinstance(values, pd.DataFrame):
        raise InvalidInputError(
            f"{name} must be one column, got a DataFrame with {list(values.columns)}: pass a column."
        )
    if isinstance(values, Iterator):  # of chunks or of rows: there is no telling
        raise InvalidInputError(
            f"{name} must be a list with one value a row, got a {type(values).__name__}: make it a list."
        )
    if isinstance(values, np.ndarray) and values.ndim == 0:
        return [values.item()]
    if not isinstance(values, list | tuple | pd.Series | np.ndarray) or _is_conversation(values):
        return [values]
    if len(values) == 0:
        raise InvalidInputError(f"{name} must have at least one row, got none.")
    return list(values)


def _is_conversation(values: Any) -> bool:
    return len(values) > 0 and all(_field(message, "role") is not None for message in values)


def _params(params: Any, rows: int) -> list[Any]:
    if params is None or isinstance(params, Mapping):
        return [params] * rows
    listed = _column("params", params, rows)
    wrong = [cell for cell in listed if not (is_missing(cell) or isinstance(cell, Mapping))]
    if wrong:
        raise InvalidInputError(f"params must be a dictionary, or a list with one a row; got {wrong[0]!r}.")
    return listed


def _numbers(name: str, values: Any, answers: Sequence[_Answer]) -> list[Any]:
    cells = _filled(name, values, answers)
    wrong = [cell for cell in cells if not (is_missing(cell) or _is_measured(cell))]
    if wrong:
        raise InvalidInputError(f"{name} must be a number of at least 0 or None, one a row; got {wrong[0]!r}.")
    return cells


def _is_measured(cell: Any) -> bool:
    is_number = isinstance(cell, Real)
    return is_number and not isinstance(cell, bool) and bool(cell >= 0)


def _filled(name: str, values: Any, answers: Sequence[_Answer]) -> list[Any]:
    """What the caller gave, and where that is missing, what the answers say."""
    given = [None] * len(answers) if values is None else _column(name, values, len(answers))
    return [getattr(answer, name) if is_missing(cell) else cell for cell, answer in zip(given, answers, strict=True)]


def _others(columns: Any, rows: int) -> dict[str, list[Any]]:
    if not isinstance(columns, Mapping):
        raise InvalidInputError(
            f"columns must be a dictionary, name -> one value a row, got {type(columns).__name__}."
        )
    taken = [name for name in columns if name in _COLUMNS]
    if taken:
        raise InvalidInputError(
            f"columns must not have the names of the table's own, {', '.join(_COLUMNS)}; got {taken}."
        )
    return {str(name): _column(str(name), values, rows) for name, values in columns.items()}


def _column(name: str, values: Any, rows: int) -> list[Any]:
    cells = list(values) if isinstance(values, list | tuple | pd.Series | np.ndarray) else [values]
    _check_length(name, len(cells), rows)
    return cells


def _check_length(name: str, length: int, rows: int) -> None:
    if length != rows:
        raise InvalidInputError(f"{name} must have one value a row: inputs has {rows}, {name} has {length}.")


def _check_file(artifact_file: Any) -> None:
    if not isinstance(artifact_file, str) or not artifact_file.endswith(".json"):
        raise InvalidInputError(f"artifact_file must end in '.json', got {artifact_file!r}.")


def _active_run_id() -> str:
    import mlflow

    run = mlflow.active_run() or mlflow.start_run()
    run_id: str = run.info.run_id
    return run_id
