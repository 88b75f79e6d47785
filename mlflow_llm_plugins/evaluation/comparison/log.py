"""What a comparison leaves in the parent run: two tables and three plots."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from mlflow_llm_plugins.evaluation.results.artifact_file import numbered, taken_files
from mlflow_llm_plugins.evaluation.results.cells import json_value

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_logger = logging.getLogger(__name__)

TAG = "llm.comparison"  # of the parent run: the variants' names and the baseline, as JSON
_LONGEST_TAG = 5000


def log_tables(tables: Mapping[str, pd.DataFrame], run_id: str) -> dict[str, str]:
    """Log tables that have rows, where MLflow's UI shows them; a name that is taken gets a number.

    Returns:
        Name -> the file in the run.
    """
    import mlflow

    files = {}
    for name, table in tables.items():
        if len(table):
            files[name] = _free_file(run_id, name, ".json")
            cells = {column: [json_value(cell) for cell in table[column]] for column in table}
            mlflow.log_table(pd.DataFrame(cells, dtype=object), files[name], run_id=run_id)
    return files


def log_plots(plots: Mapping[str, Callable[[], Figure | None]], run_id: str) -> dict[str, str]:
    """Draw and log; a plot without data is left out, and so is one that fails, with a warning.

    Returns:
        Name -> the file in the run.
    """
    files = {name: _logged(name, draw, run_id) for name, draw in plots.items()}
    return {name: file for name, file in files.items() if file is not None}


def tag_parent(variants: Sequence[str], baseline: str, run_id: str) -> None:
    """Say in the parent run what was compared."""
    import mlflow

    value = json.dumps({"baseline": baseline, "variants": list(variants)})
    mlflow.MlflowClient().set_tag(run_id, TAG, value[:_LONGEST_TAG])


def _logged(name: str, draw: Callable[[], Figure | None], run_id: str) -> str | None:
    import mlflow

    try:
        figure = draw()
        if figure is None:
            return None
        file = _free_file(run_id, name, ".png")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph", UserWarning)  # a name in a script without a font
            mlflow.MlflowClient().log_figure(run_id, figure, file)
        return file
    except Exception:  # the comparison is worth more than its pictures
        _logger.warning("The plot %r is left out: it could not be drawn or logged.", name, exc_info=True)
        return None


def _free_file(run_id: str, stem: str, extension: str) -> str:
    is_taken = taken_files(run_id, stem)
    return next(file for file in numbered(stem, extension) if not is_taken(file))
