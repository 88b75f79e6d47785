"""The rows of the servers' benchmark as an MLflow run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.served.loads import NEW_TOKENS
from benchmarks.served.rows import MEASURED, RATIOS, Row
from benchmarks.tracking import log_run

METRICS = (*MEASURED, *RATIOS, "failed")
PARAMS = ("model", "baseline", "objective", "hardware", "versions", "date", "command")


def log_rows(rows: Sequence[Row], settings: Mapping[str, object], files: Iterable[Path]) -> str:
    """Log the rows of one model to the active tracking store and experiment.

    Args:
        rows: Every figure is a metric `contender/prompts/load/answers/figure`.
        settings: More parameters.
        files: Artifacts.

    Returns:
        The id of the run.
    """
    params = {**{name: getattr(rows[0], name) for name in PARAMS}, **settings, "new_tokens": NEW_TOKENS}
    return log_run(f"serve {rows[0].model}", params, metrics_of(rows), files)


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
