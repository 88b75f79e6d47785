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
        return _json_in(path)
    except (OSError, ValueError):
        return None


def lenient_read_json(stock_read_json: Callable[..., Any]) -> Callable[..., Any]:
    """`pd.read_json`, but for a file with JSON that is no table, such as a request: that becomes one row.

    A file that cannot be read, or without JSON, is a `click.ClickException` about the option `-I`.

    Args:
        stock_read_json: Is asked first.
    """

    @functools.wraps(stock_read_json)
    def read_json(path_or_buf: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return stock_read_json(path_or_buf, *args, **kwargs)
        except (OSError, ValueError, TypeError, AttributeError):
            if not isinstance(path_or_buf, str | os.PathLike):
                raise
            import pandas as pd

            return pd.DataFrame([_payload_of_option(path_or_buf)])

    return read_json


def _context() -> click.Context | None:
    context = click.get_current_context(silent=True)
    if context is None:
        return None
    return context if getattr(context.command.callback, "__module__", None) == _COMMANDS else None


def _json_in(path: str | os.PathLike[str]) -> object:
    return json.loads(Path(path).read_text(encoding="utf-8-sig"))


def _payload_of_option(path: str | os.PathLike[str]) -> object:
    """Found here, as the errors of pandas differ: before 3.0 it takes the path of a missing file for JSON."""
    try:
        payload = _json_in(path)
    except OSError as error:
        raise click.ClickException(f"-I {path}: {error.strerror}") from error
    except json.JSONDecodeError as error:
        where = f"{error.msg} at line {error.lineno}, column {error.colno}"
        raise click.ClickException(f"-I {path}: it holds no JSON: {where}.") from error
    except UnicodeError as error:
        raise click.ClickException(f"-I {path}: it is not UTF-8 text.") from error
    if not isinstance(payload, dict | list | str):
        raise click.ClickException(f"-I {path}: it must hold a JSON object, a list or a string.")
    return payload


def _undamaged(raw: object, frame: object) -> object:
    if isinstance(raw, Mapping):
        if _is_table(raw):
            return _split(raw)
        return raw if KEYS & raw.keys() else frame
    if isinstance(raw, list) and raw and all(isinstance(row, Mapping) for row in raw) and not is_chat(raw):
        return {"dataframe_records": raw}
    return raw if isinstance(raw, list | str) else frame


def _is_table(raw: Mapping[str, Any]) -> bool:
    """Whether it is what `DataFrame.to_json` writes: for each column its values, by the numbers of the rows."""
    columns = list(raw.values())
    if not columns or not all(isinstance(column, Mapping) for column in columns):
        return False
    rows = columns[0].keys()
    return bool(rows) and all(row.isdecimal() for row in rows) and all(column.keys() == rows for column in columns)


def _split(table: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    rows = next(iter(table.values()))
    return {
        "dataframe_split": {
            "columns": list(table),
            "data": [[column[row] for column in table.values()] for row in rows],
        }
    }
