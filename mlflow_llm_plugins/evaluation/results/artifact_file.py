"""In which file of a run something is kept, so that two evaluations never overwrite or mix what they log.

MLflow's default evaluator adds its rows to a table that is there. So our table has the short name, which MLflow's UI
knows, only where it is the run's only one; and when the default evaluator comes later in the same run, `make_room`
gives it the short name, as it takes no other.
"""

from __future__ import annotations

import json
import logging
import os
import posixpath
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from mlflow_llm_plugins.evaluation.results.json_table import log_json_table
from mlflow_llm_plugins.evaluation.results.listing import list_table, relist_table

_logger = logging.getLogger(__name__)

SHORT_FILE = "eval_results_table.json"  # also of MLflow's default evaluator
OWN_STEM = "llm_eval_results_table"
FILES_TAG = "llm.eval_results_table"  # of a run: a JSON list of the files that are ours
_choosing = threading.Lock()  # threads that evaluate into one run: held until what a file was chosen for is there
_NO_ROWS = '{"columns":[],"data":[]}'


class LoggedTable(NamedTuple):
    """A results table in a run."""

    file: str
    artifact: Any  # a JsonEvaluationArtifact with its content


def log_results_table(frame: pd.DataFrame, run_id: str, others: bool, prefix: str = "") -> LoggedTable:
    """Log a results table under a name of its own, where MLflow's UI shows it.

    Args:
        frame: Cells as JSON can hold them; see `results_table`.
        run_id: The run, which need not be the active one.
        others: Whether another evaluator takes part in this evaluation.
        prefix: Before the name of the file: the setting `metric_prefix`.
    """
    from mlflow.models.evaluation.artifacts import JsonEvaluationArtifact
    from mlflow.tracking.artifact_utils import get_artifact_uri

    with _choosing:
        file = table_file(run_id, others, prefix)
        content = log_json_table(frame, run_id, file)
        _set_own_files(run_id, [*_own_files(run_id), file])
    if "/" in file:
        _logger.warning(
            "result.tables looks for the table outside of its folder (MLflow to 3.17): read it by "
            "mlflow.load_table(%r, run_ids=[%r]).",
            *(file, run_id),
        )
    return LoggedTable(file, JsonEvaluationArtifact(uri=get_artifact_uri(run_id, file), content=content))


def table_file(run_id: str, others_take_part: bool, prefix: str = "") -> str:
    """The file for a new table: the short name, else `llm_eval_results_table.json`, else that with a number."""
    short = prefix + SHORT_FILE
    is_taken = taken_files(run_id, prefix)
    if not others_take_part and not is_taken(short):
        return short
    return next(file for file in _numbered(prefix + OWN_STEM, ".json") if not is_taken(file))


@contextmanager
def free_file(run_id: str, stem: str, extension: str) -> Iterator[str]:
    """A name that no file of the run has: `stem.ext`, `stem_2.ext`, and so on.

    Log the file inside the block: until its end all other threads of this process wait for a name of theirs.
    """
    with _choosing:
        is_taken = taken_files(run_id, stem)
        yield next(file for file in _numbered(stem, extension) if not is_taken(file))


def taken_files(run_id: str, prefix: str = "") -> Callable[[str], bool]:
    """Whether a file that begins with `prefix` is there, as of now."""
    import mlflow

    folder = posixpath.dirname(prefix) or None  # of a prefix such as "held_out/"
    files = {file.path for file in mlflow.MlflowClient().list_artifacts(run_id, folder)}
    return lambda file: posixpath.normpath(file) in files


def make_room(run_id: str, prefix: str = "") -> str | None:
    """Move our table away from the short name, before MLflow's default evaluator logs its own table into the run.

    Never raises: whatever a store refuses, the other evaluation goes on, and a warning says what may be mixed.

    Args:
        run_id: The run.
        prefix: The default evaluator's `metric_prefix`.

    Returns:
        Where the table is now; None if the short name was not ours, or the table could not be moved.
    """
    try:
        with _choosing:
            return _moved_away(run_id, prefix)
    except Exception:
        _logger.warning(
            "%s%s of run %s may now hold the rows of two evaluations: the one of the evaluator 'llm' could not be "
            "moved to another file.",
            *(prefix, SHORT_FILE, run_id),
            exc_info=True,
        )
        return None


def _numbered(stem: str, extension: str) -> Iterator[str]:
    """Names to try in turn."""
    yield stem + extension
    yield from (f"{stem}_{number}{extension}" for number in count(2))


def _moved_away(run_id: str, prefix: str) -> str | None:
    short = prefix + SHORT_FILE
    files = _own_files(run_id)
    if short not in files:
        return None
    others = [file for file in files if file != short]
    if not taken_files(run_id, prefix)(short):  # somebody deleted it
        _set_own_files(run_id, others)
        return None
    new = table_file(run_id, others_take_part=True, prefix=prefix)
    _copy(run_id, short, new)
    _set_own_files(run_id, [*others, new])  # before what may fail: a mixed file is not ours to move
    list_table(run_id, new)
    _empty(run_id, short)
    relist_table(run_id, short, new)
    return new


def _copy(run_id: str, old: str, new: str) -> None:
    import mlflow

    client = mlflow.MlflowClient()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "copy", posixpath.basename(new))
        copy.parent.mkdir()
        os.replace(client.download_artifacts(run_id, old, folder), copy)
        client.log_artifact(run_id, str(copy), posixpath.dirname(new) or None)


def _empty(run_id: str, file: str) -> None:
    """Delete a table; where the store cannot, or silently does not, leave a table without rows to be added to."""
    import mlflow
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    client = mlflow.MlflowClient()
    try:
        get_artifact_repository(client.get_run(run_id).info.artifact_uri).delete_artifacts(file)
    except Exception as error:  # NotImplementedError, or that of the store's own library
        _logger.debug("%s of run %s cannot be deleted: %r", file, run_id, error)
    if taken_files(run_id, file)(file):
        client.log_text(run_id, _NO_ROWS, file)


def _own_files(run_id: str) -> list[str]:
    import mlflow

    files: list[str] = json.loads(mlflow.MlflowClient().get_run(run_id).data.tags.get(FILES_TAG, "[]"))
    return files


def _set_own_files(run_id: str, files: list[str]) -> None:
    import mlflow

    mlflow.MlflowClient().set_tag(run_id, FILES_TAG, json.dumps(files))
