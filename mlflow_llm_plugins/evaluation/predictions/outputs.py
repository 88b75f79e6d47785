"""One row's answer out of whatever shape a model gives it, as MLflow's default evaluator reads whole results."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mlflow_llm_plugins.evaluation.predictions.completion import is_completion, read_completion
from mlflow_llm_plugins.evaluation.predictions.failures import NoAnswerError
from mlflow_llm_plugins.evaluation.predictions.prediction import Prediction
from mlflow_llm_plugins.metrics.metric import is_missing

_NAMES_SHOWN = 10


def read_output(result: Any, column: str | None) -> Prediction:
    """The answer to one row, and the columns beside it.

    Args:
        result: A string or number; a list, array or Series of one; a dict, a list of one dict or a DataFrame of one
            row, with the answer in `column` or in the only column; a chat completion.
        column: Of the answer, where there are several.

    Raises:
        NoAnswerError: There is no answer, more than one, or no telling which it is.
    """
    if isinstance(result, pd.DataFrame):
        return _of_columns(_only(result.to_dict("records")), column)
    if isinstance(result, pd.Series | np.ndarray):
        result = result.tolist()  # of an array without dimensions the value
    if isinstance(result, list | tuple):
        result = _only(result)
        return _of_columns(result, column) if isinstance(result, Mapping) else _of_value(result)
    if isinstance(result, Mapping):
        return _of_dict(result, column)
    return _of_value(result)


def _of_columns(record: Mapping[Any, Any], column: str | None) -> Prediction:
    if column is not None and column in record:
        others = {str(name): value for name, value in record.items() if name != column}
        return _of_value(record[column], others)
    if is_completion(record):
        return read_completion(record)
    if len(record) == 1:
        return _of_value(next(iter(record.values())))
    names = ", ".join(repr(str(name)) for name in list(record)[:_NAMES_SHOWN]) or "none"
    if column is None:
        raise NoAnswerError(f"the model gives several columns; name the one to score by predictions=...: {names}")
    raise NoAnswerError(f"the model's output has no column {column!r}, which predictions=... names; it has: {names}")


def _of_value(value: Any, others: Mapping[str, Any] | None = None) -> Prediction:
    value = value.item() if isinstance(value, np.generic) else value
    if is_missing(value):
        raise NoAnswerError("the model gave no answer")
    if isinstance(value, Awaitable | AsyncIterator):
        raise _not_awaited(value)
    if isinstance(value, Iterator):
        raise NoAnswerError(f"the model gave a {type(value).__name__}, not its values; have it return a list")
    return Prediction(output=value, others=others or {})


def _not_awaited(value: Awaitable[Any] | AsyncIterator[Any]) -> NoAnswerError:
    if isinstance(value, Coroutine):
        value.close()  # or Python complains that nobody awaited it
    return NoAnswerError(
        f"the model gave a {type(value).__name__}, not its answer; have the function wait for it, for example by "
        "asyncio.run(...)"
    )


def _of_dict(result: Mapping[Any, Any], column: str | None) -> Prediction:
    """Columns with lists of one value, or with the bare value."""
    if is_completion(result) and column not in result:
        return read_completion(result)
    prediction = _of_columns({name: _unpacked(cells) for name, cells in result.items()}, column)
    if isinstance(prediction.output, list | tuple):
        _only(prediction.output)
    return prediction


def _unpacked(cells: Any) -> Any:
    if isinstance(cells, pd.Series | np.ndarray):
        cells = cells.tolist()
    return cells[0] if isinstance(cells, list | tuple) and len(cells) == 1 else cells


def _only(results: Sequence[Any]) -> Any:
    if len(results) != 1:
        raise NoAnswerError(f"the model gave {len(results)} results for one row")
    return results[0]
