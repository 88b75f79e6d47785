"""A table in a run that later calls add rows to.

`mlflow.log_table` adds rows, too, but reads what is there through `pandas.read_json`, which turns the answer "007"
into 7 and a text that looks like a date into one (MLflow 3.17).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.evaluation.results.artifact_file import taken_files
from mlflow_llm_plugins.evaluation.results.listing import list_table


def add_rows(run_id: str, file: str, columns: Mapping[str, Sequence[Any]]) -> None:
    """Add rows to a table of a run, or begin one; a column that either side lacks is None there.

    Two callers at once may lose each other's rows, as with `mlflow.log_table`.

    Args:
        run_id: The run.
        file: Ends in .json.
        columns: Of the same length, with values that JSON can hold.

    Raises:
        InvalidInputError: The file is there, and no table.
    """
    import mlflow

    before = _rows(run_id, file)
    added = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    rows = [*before, *added]
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = {"columns": names, "data": [[row.get(name) for name in names] for row in rows]}
    mlflow.MlflowClient().log_text(run_id, json.dumps(table), file)
    list_table(run_id, file)


def _rows(run_id: str, file: str) -> list[dict[str, Any]]:
    import mlflow

    if not taken_files(run_id, file)(file):
        return []
    with tempfile.TemporaryDirectory() as folder:
        text = Path(mlflow.MlflowClient().download_artifacts(run_id, file, folder)).read_text(encoding="utf-8")
    try:
        table = json.loads(text)
        return [dict(zip(table["columns"], cells, strict=True)) for cells in table["data"]]
    except (ValueError, LookupError, TypeError) as error:
        raise InvalidInputError(
            f"{file!r} of run {run_id} is no table that rows can be added to: choose another file."
        ) from error
