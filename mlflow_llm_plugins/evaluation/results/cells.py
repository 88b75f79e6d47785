"""Values as a table's JSON can hold them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date, time
from typing import Any

import numpy as np

from mlflow_llm_plugins.metrics.metric import is_missing

_MAX_DEPTH = 50  # of lists in lists; what is deeper, a list that holds itself for one, is printed
_INTEGER_LIMIT = 2**63  # beyond it MLflow's `log_table` fails: pandas writes 64 bits


def json_value(value: object) -> Any:
    """The value in JSON's own types.

    Numpy's scalars and arrays, tuples and pydantic models become Python's values, missing and infinite numbers None,
    integers beyond 64 bits and all other objects what `str` makes of them. Lone surrogates, which UTF-8 cannot write,
    become question marks.
    """
    return _value(value, 0)


def _value(value: Any, depth: int) -> Any:
    if is_missing(value):
        return None
    if isinstance(value, np.number | np.bool_):
        value = value.item()
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) < _INTEGER_LIMIT:
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, date | time):
        return value.isoformat()
    return _nested(value, depth) if depth < _MAX_DEPTH else _text(value)


def _nested(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        return {_text(key): _value(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_value(item, depth + 1) for item in value]
    if isinstance(value, np.ndarray):
        return _value(value.tolist(), depth + 1)
    if hasattr(type(value), "model_dump"):  # messages and answers of OpenAI's client
        return _value(value.model_dump(mode="json", exclude_none=True), depth + 1)
    return _text(value)


def _text(value: object) -> str:
    try:
        text = str.__str__(value) if isinstance(value, str) else str(value)
    except Exception:  # an object that cannot be printed, an integer of more than 4,300 digits
        text = f"<{type(value).__name__}>"
    return text.encode("utf-8", "replace").decode("utf-8")
