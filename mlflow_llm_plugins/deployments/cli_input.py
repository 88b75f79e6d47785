"""What the user's file holds, where `mlflow deployments predict` has made a table of it.

The command (MLflow 3.17) reads every file with `pd.read_json` before it asks the client: a list of messages becomes
a row each, "123" a number, and `{"prompt": "hi"}` an error.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from mlflow_llm_plugins.deployments.payloads import KEYS, is_chat

_COMMANDS = "mlflow.deployments.cli"


def is_cli() -> bool:
    """Whether this runs inside one of the commands `mlflow deployments ...`."""
    return _context() is not None


def raw_input(frame: object) -> object:
    """What the file of the running command says, in place of the table that was made of it.

    Args:
        frame: What the client was given; handed back outside of the command, and where the file is a table indeed
            or holds no JSON.
    """
    context = _context()
    path = None if context is None else context.params.get("input_path")
    return frame if path is None else _undamaged(read_payload(path), frame)


def read_payload(path: str | os.PathLike[str]) -> object:
    """The JSON in a file as it is; None where it cannot be read or holds something else."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return None


def lenient_read_json(stock_read_json: Callable[..., Any]) -> Callable[..., Any]:
    """`pd.read_json`, but for a file with one object that is no table, such as a request: that becomes one row.

    Args:
        stock_read_json: Is asked first.
    """

    @functools.wraps(stock_read_json)
    def read_json(path_or_buf: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return stock_read_json(path_or_buf, *args, **kwargs)
        except (ValueError, TypeError, AttributeError):
            payload = read_payload(path_or_buf) if isinstance(path_or_buf, str | os.PathLike) else None
            if not isinstance(payload, dict):
                raise
            import pandas as pd

            return pd.DataFrame([payload])

    return read_json


def _context() -> click.Context | None:
    context = click.get_current_context(silent=True)
    if context is None:
        return None
    return context if getattr(context.command.callback, "__module__", None) == _COMMANDS else None


def _undamaged(raw: object, frame: object) -> object:
    if isinstance(raw, Mapping):
        return raw if KEYS & raw.keys() else frame  # else columns
    if isinstance(raw, list) and raw and all(isinstance(row, Mapping) for row in raw) and not is_chat(raw):
        return {"dataframe_records": raw}
    return raw if isinstance(raw, list | str) else frame
