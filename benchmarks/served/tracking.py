"""The rows of the servers' benchmark as an MLflow run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.served.loads import NEW_TOKENS
from benchmarks.served.rows import MEASURED, RATIOS, Row

METRICS = (*MEASURED, *RATIOS, "failed")
BATCH = 1000  # metrics that MLflow takes at once
PARAMS = ("model", "objective", "hardware", "versions", "date", "command")


def log_run(rows: Sequence[Row], settings: Mapping[str, object], files: Iterable[Path]) -> str:
    """Log the rows of one model to the active tracking store and experiment.

    Args:
        rows: Every figure is a metric `contender/prompts/load/answers/figure`.
        settings: More parameters.
        files: Artifacts.

    Returns:
        The id of the run.
    """
    import mlflow

    metrics = list(metrics_of(rows).items())
    with mlflow.start_run(run_name=f"serve {rows[0].model}") as run:
        mlflow.log_params({**{name: getattr(rows[0], name) for name in PARAMS}, **settings, "new_tokens": NEW_TOKENS})
        for first in range(0, len(metrics), BATCH):
            mlflow.log_metrics(dict(metrics[first : first + BATCH]))
        for file in files:
            mlflow.log_artifact(str(file))
    return str(run.info.run_id)


def metrics_of(rows: Sequence[Row]) -> dict[str, float]:
    """Name -> value of all that was measured."""
    return {
        f"{row.contender}/{row.prompts}/{_rhythm(row)}/{row.answers}/{name}": value
        for row in rows
        if row.requests_per_second is not None
        for name in METRICS
        if (value := getattr(row, name)) is not None
    }


def _rhythm(row: Row) -> str:
    return f"{row.clients}_clients" if row.clients is not None else f"{row.rate:g}_per_second"
