"""What Python, numpy and pandas can hold, as what JSON can hold."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from numbers import Integral
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError

_REMEDIES: dict[type, str] = {
    bytes: "decode text, and encode other data with base64.b64encode(...).decode()",
    bytearray: "decode text, and encode other data with base64.b64encode(...).decode()",
    set: "give a list, which has an order",
    frozenset: "give a list, which has an order",
}


def json_value(value: object) -> Any:
    """The value, made of what JSON has: NaN and other gaps become None, dates and times text in ISO 8601.

    Args:
        value: Of Python, numpy or pandas; not changed.

    Raises:
        InvalidInputError: A part of it has no such form; the message has its type, never its content.
    """
    try:
        return _converted(value)
    except RecursionError:
        raise InvalidInputError("The input is nested too deeply, or holds itself; give plain lists.") from None


def _converted(value: object) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, Mapping):
        return {_key(name): _converted(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_converted(item) for item in value]
    return _of_library(value)


def _of_library(value: object) -> Any:
    import numpy as np
    import pandas as pd

    if isinstance(value, np.ndarray):
        return _of_array(value)
    if isinstance(value, pd.Series | pd.Index):
        return _converted(value.tolist())
    if value is pd.NA or value is pd.NaT:  # NaT is also a datetime
        return None
    if isinstance(value, np.datetime64):
        return _converted(pd.Timestamp(value))
    if isinstance(value, datetime.datetime):
        return _moment(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, np.floating):
        return _number(float(value))
    raise _refused(value)


def _of_array(array: Any) -> Any:
    if array.ndim == 0:
        return _converted(array[()])
    # `tolist` makes bare numbers of nanoseconds, which datetime64 may count.
    return _converted(list(array) if array.dtype.kind == "M" else array.tolist())


def _moment(value: datetime.datetime) -> str:
    """With a fraction in any case: MLflow's server refuses a column in which only some have one."""
    return value.isoformat(timespec="nanoseconds" if getattr(value, "nanosecond", 0) else "microseconds")


def _number(value: float) -> float | None:
    if math.isinf(value):
        raise InvalidInputError("The input holds an infinite number, which JSON cannot say; give a finite one.")
    return None if math.isnan(value) else float(value)


def _key(name: object) -> str:
    if not isinstance(name, str | Integral):
        raise InvalidInputError(f"The keys of a dict must be strings, got one of type {type(name).__name__}.")
    return str(name)


def _refused(value: object) -> InvalidInputError:
    remedy = next((text for kind, text in _REMEDIES.items() if isinstance(value, kind)), "convert it before")
    return InvalidInputError(f"The input holds a value of type {type(value).__name__}: {remedy}.")
