"""The tag of a run by which MLflow's UI and `mlflow.load_table` know its tables."""

from __future__ import annotations

import json
from typing import Any


def list_table(run_id: str, file: str) -> None:
    """Have MLflow show the file as a table; `mlflow.log_table` does the same for what it writes."""
    _set(run_id, [*_listed(run_id), _entry(file)])


def relist_table(run_id: str, old: str, new: str) -> None:
    """Have MLflow show `new` in the place of `old`."""
    _set(run_id, [_entry(new) if entry == _entry(old) else entry for entry in _listed(run_id)])


def _entry(file: str) -> dict[str, str]:
    return {"path": file, "type": "table"}


def _listed(run_id: str) -> list[Any]:
    import mlflow
    from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS

    entries: list[Any] = json.loads(mlflow.MlflowClient().get_run(run_id).data.tags.get(MLFLOW_LOGGED_ARTIFACTS, "[]"))
    return entries


def _set(run_id: str, entries: list[Any]) -> None:
    import mlflow
    from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS

    once = [entry for position, entry in enumerate(entries) if entry not in entries[:position]]
    mlflow.MlflowClient().set_tag(run_id, MLFLOW_LOGGED_ARTIFACTS, json.dumps(once))
