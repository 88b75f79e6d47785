"""What stock MLflow paths hand to `predict`, brought into two forms: rows, or one request.

With a params-only signature the scoring server, `mlflow models predict`, evaluators and Spark send strings, lists,
arrays (also of no dimension), dicts of arrays, lists of dicts of arrays, Series and DataFrames.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.openai_api.requests import OPTION_FIELDS
from mlflow_llm_plugins.quantized_llm.signature import PARAMETERS

Conversation = Sequence[Mapping[str, Any]]
Row = str | Conversation

_CONTENT = ("messages", "prompt", "inputs")  # names of the column that holds the rows
_PARAMETERS = frozenset({*OPTION_FIELDS, *PARAMETERS})
_ROWS_IN_A_MESSAGE = 5
_NO_ROWS = "The input has no rows; give at least one prompt."
_ALLOWED = (
    "a string, a list of strings, a list of messages, a DataFrame with a column of one of them, "
    "or a dict with messages or prompt"
)


@dataclass(frozen=True, slots=True)
class Rows:
    """Independent prompts or conversations; each gets one text."""

    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Single:
    """One request in the shape of OpenAI's API, not checked yet; it gets an answer in that shape."""

    request: dict[str, Any]


def read_input(data: object, frame_is_request: bool = False) -> Rows | Single:
    """Find the rows or the request in whatever MLflow passed on.

    Args:
        data: Lists, dicts, numpy and pandas objects are not changed.
        frame_is_request: A DataFrame of one row is a request and its columns are the fields, as MLflow makes it for
            a signature that has columns for messages or prompt.

    Raises:
        InvalidInputError: Nothing to answer, or rows that are no text; the message has the numbers of the rows.
    """
    import pandas as pd

    if isinstance(data, pd.DataFrame):
        if not all(isinstance(name, Hashable) for name in data.columns):
            raise InvalidInputError("Each column must have one name, got a list or an object for one of them.")
        records: list[dict[Hashable, Any]] = data.to_dict("records")
        is_request = frame_is_request and len(records) == 1
        return _read_mapping(_without_gaps(records[0])) if is_request else _read_records(records)
    if isinstance(data, Mapping):
        return _read_mapping(data)
    value = _plain(data)
    return _read_mapping(value) if isinstance(value, Mapping) else _read_list(value)


def _read_mapping(data: Mapping[Any, Any]) -> Rows | Single:
    if _has_columns(data):
        columns = {name: column.tolist() for name, column in data.items()}
        return _read_records([dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)])
    request = {str(name): value for name, value in _plain(data).items() if value is not None}
    if "params" in request:
        raise InvalidInputError("`params` stands inside the data; give parameters beside messages or prompt instead.")
    if "messages" in request and "prompt" in request:
        raise InvalidInputError("The request has both messages and prompt; give one of them.")
    if "messages" in request or "prompt" in request:
        return Single(request)
    if set(request) == {"inputs"}:
        return read_input(request["inputs"])
    if "input" in request:
        raise InvalidInputError(
            "`input` asks for embeddings, which this model does not make; give messages or prompt."
        )
    raise InvalidInputError(f"A dict needs messages or prompt; its keys are: {_names(request)}.")


def _has_columns(data: Mapping[Any, Any]) -> bool:
    """Whether the dict holds a column in each value, as the server makes it of `instances`, and not a request."""
    import numpy as np

    columns = list(data.values())
    if not columns or not all(isinstance(column, np.ndarray) and column.ndim > 0 for column in columns):
        return False
    one_conversation = "messages" in data and all(isinstance(item, Mapping) for item in data["messages"])
    return not one_conversation and len({len(column) for column in columns}) == 1


def _read_list(data: object) -> Rows:
    if isinstance(data, str):
        return Rows((data,))
    if not isinstance(data, list):
        raise InvalidInputError(f"The input must be {_ALLOWED}; got {type(data).__name__}.")
    if all(isinstance(item, Mapping) for item in data):
        return _read_records(data)
    return _rows(data, "The input", _is_row)


def _read_records(records: Sequence[Mapping[Any, Any]]) -> Rows:
    if not records:
        raise InvalidInputError(_NO_ROWS)
    columns = list(dict.fromkeys(name for record in records for name in record))
    if "role" in columns and not set(_CONTENT).intersection(columns):
        return Rows(([_without_gaps(record) for record in records],))
    column = _content_column(columns)
    cells = [_plain(record.get(column)) for record in records]
    if column == "messages" and all(isinstance(cell, Mapping) for cell in cells):
        return Rows((cells,))  # as a JSON reader makes it of {"messages": [...]}: one message a row
    return _rows(cells, f"Column {column!r}", _is_conversation if column == "messages" else _is_row)


def _content_column(columns: Sequence[Any]) -> Any:
    content = [name for name in _CONTENT if name in columns] or (list(columns) if len(columns) == 1 else [])
    if not content:
        raise InvalidInputError(
            f"Which column holds the prompts? Call it messages, prompt or inputs; there are: {_names(columns)}."
        )
    if len(content) > 1:
        raise InvalidInputError(f"Columns {_names(content)} could each hold the prompts; give only one of them.")
    if parameters := sorted(_PARAMETERS.intersection(columns) - set(content)):
        raise InvalidInputError(
            f"Rows hold only prompts, but there are columns for {', '.join(parameters)}. "
            f"Give these in params, for all rows: params={{{parameters[0]!r}: ...}}."
        )
    return content[0]


def _rows(cells: Sequence[Any], where: str, allowed: Callable[[object], bool]) -> Rows:
    rows = [cell[0] if _is_wrapped(cell) else cell for cell in cells]
    bad = [f"row {i} is {_shown(row)}" for i, row in enumerate(rows) if not allowed(row)]
    if bad:
        more = f" and {len(bad) - _ROWS_IN_A_MESSAGE} more" if len(bad) > _ROWS_IN_A_MESSAGE else ""
        raise InvalidInputError(
            f"{where} must hold {_ALLOWED_ROWS[allowed]} in each row, but {', '.join(bad[:_ROWS_IN_A_MESSAGE])}"
            f"{more} (rows count from 0). Correct or drop these rows; nothing was generated."
        )
    return Rows(tuple(rows))


def _is_conversation(row: object) -> bool:
    return isinstance(row, list) and bool(row) and all(isinstance(message, Mapping) for message in row)


def _is_row(row: object) -> bool:
    return isinstance(row, str) or _is_conversation(row)


_ALLOWED_ROWS: dict[Callable[[object], bool], str] = {
    _is_conversation: "a list of messages",
    _is_row: "a string or a list of messages",
}


def _is_wrapped(cell: object) -> bool:
    """A row of a table with one column."""
    return isinstance(cell, list) and len(cell) == 1 and isinstance(cell[0], str)


def _shown(value: object) -> str:
    """A missing value or number as it is; of anything else, which may hold somebody's words, the type."""
    is_scalar = isinstance(value, bool | int | float) or _missing(value)
    return repr(value) if is_scalar else f"of type {type(value).__name__}"


def _missing(value: object) -> bool:
    import pandas as pd

    return value is None or (not isinstance(value, list | dict) and bool(pd.isna(value)))


def _without_gaps(record: Mapping[Any, Any]) -> dict[Any, Any]:
    """The fields that were given: MLflow and pandas fill what a record lacks with None and NaN."""
    return {name: value for name, value in _plain(record).items() if not _missing(value)}


def _names(names: Iterable[Any]) -> str:
    return ", ".join(map(repr, names)) or "none"


def _plain(value: Any) -> Any:
    """The value made of Python's own types: MLflow turns what comes as JSON into arrays, also into single cells."""
    import numpy as np
    import pandas as pd

    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | pd.Series):
        return [_plain(item) for item in value]
    return value
