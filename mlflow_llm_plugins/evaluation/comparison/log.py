"""What a comparison leaves in the parent run: two tables and three plots."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from mlflow_llm_plugins.evaluation.results.artifact_file import free_file
from mlflow_llm_plugins.evaluation.results.cells import json_value
from mlflow_llm_plugins.evaluation.results.json_table import log_json_table
from mlflow_llm_plugins.evaluation.results.plots.log import log_plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TAG = "llm.comparison"  # of the parent run: the variants' names and the baseline, as JSON
_LONGEST_TAG = 5000


def log_tables(tables: Mapping[str, pd.DataFrame], run_id: str) -> dict[str, str]:
    """Log tables that have rows, where MLflow's UI shows them; a name that is taken gets a number.

    Returns:
        Name -> the file in the run.
    """
    files = {}
    for name, table in tables.items():
        if len(table):
            cells = {column: [json_value(cell) for cell in table[column]] for column in table}
            with free_file(run_id, name, ".json") as files[name]:
                log_json_table(pd.DataFrame(cells, dtype=object), run_id, files[name])
    return files


def log_plots(plots: Mapping[str, Callable[[], Figure | None]], run_id: str) -> dict[str, str]:
    """Draw and log; a plot without data is left out, and so is one that fails, with a warning.

    Returns:
        Name -> the file in the run.
    """
    logged = {name: log_plot(name, draw, run_id) for name, draw in plots.items()}
    return {name: plot.file for name, plot in logged.items() if plot is not None}


def tag_parent(variants: Sequence[str], baseline: str, run_id: str) -> None:
    """Say in the parent run what was compared."""
    import mlflow

    value = json.dumps({"baseline": baseline, "variants": list(variants)})
    mlflow.MlflowClient().set_tag(run_id, TAG, value[:_LONGEST_TAG])
