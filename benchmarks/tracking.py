"""The runs of the benchmarks in MLflow: alone, or under the run of all of them."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.sections import SECTIONS, read

EXPERIMENT = "benchmarks"
PARENT = "MLFLOW_LLM_BENCHMARKS_RUN"  # id of the run of all; set for the processes of `python -m benchmarks`
BATCH = 1000  # metrics that MLflow takes at once
ORIGIN = ("hardware", "versions", "date", "command")
_NOT_IN_NAMES = re.compile(r"[^\w\-. /]")


@contextmanager
def parent_run(arguments: Sequence[str]) -> Iterator[dict[str, str]]:
    """The run of all benchmarks, in the experiment `benchmarks`; the environment in which others are under it."""
    import mlflow

    mlflow.set_experiment(EXPERIMENT)
    with mlflow.start_run(run_name="benchmarks") as run:
        mlflow.log_param("command", shlex.join(["python", "-m", "benchmarks", *arguments]))
        yield {PARENT: run.info.run_id, "MLFLOW_EXPERIMENT_ID": run.info.experiment_id}


def log_run(
    name: str, params: Mapping[str, object], metrics: Mapping[str, float], files: Iterable[Path], status: str = ""
) -> str:
    """Log a run to the active tracking store and experiment, under the run of all where there is one.

    Args:
        name: Of the run.
        params: As MLflow has them.
        metrics: Names may have any characters; those that MLflow refuses are left out.
        files: Artifacts.
        status: What went wrong; the run counts as failed then.

    Returns:
        The id of the run.
    """
    import mlflow

    named = list({_NOT_IN_NAMES.sub("", key): value for key, value in metrics.items()}.items())
    client = mlflow.MlflowClient()
    with mlflow.start_run(run_name=name, nested=True, parent_run_id=os.environ.get(PARENT)) as run:
        mlflow.log_params(dict(params))
        for first in range(0, len(named), BATCH):
            mlflow.log_metrics(dict(named[first : first + BATCH]))
        for file in files:
            mlflow.log_artifact(str(file))
    if status:
        client.set_tag(run.info.run_id, "failure", status)
        client.set_terminated(run.info.run_id, "FAILED")
    return str(run.info.run_id)


def log_files(name: str, files: Sequence[Path], status: str) -> None:
    """Log what a benchmark has written: the figures of each of its tables, and the files."""
    if not files and not status:
        return
    [section] = [section for section in SECTIONS if section.name == name]
    metrics: dict[str, float] = {}
    params: dict[str, object] = {}
    for path in sorted(files):
        if path.suffix == ".csv" and (rows := read(path)):
            params |= {key: rows[0].get(key, "") for key in ORIGIN}
            metrics |= {f"{path.stem}/{key}": value for key, value in section.metrics(rows).items()}
    log_run(name, params, metrics, files, status)
