"""A table in a run as `mlflow.log_table` writes it, but with all digits of its numbers.

MLflow writes by `pandas.DataFrame.to_json` (3.17), which keeps ten decimals: 1e-11 and 2e-11 would be the same score.
"""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from mlflow_llm_plugins.evaluation.results.listing import list_table


def log_json_table(frame: pd.DataFrame, run_id: str, file: str) -> dict[str, Any]:
    """Log a table where MLflow's UI and `mlflow.load_table` find it; a file of that name is overwritten.

    Args:
        frame: Cells as JSON can hold them; see `json_value`.
        run_id: The run, which need not be the active one.
        file: Ends in .json.

    Returns:
        What the file holds: `columns` and `data`, a list of rows.
    """
    import mlflow

    content: dict[str, Any] = frame.astype(object).to_dict(orient="split", index=False)
    mlflow.MlflowClient().log_text(run_id, json.dumps(content), file)
    list_table(run_id, file)
    return content
