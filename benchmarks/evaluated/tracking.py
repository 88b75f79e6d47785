"""The rows of the evaluation's benchmark as an MLflow run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from benchmarks.evaluated.rows import About, Row
from benchmarks.tracking import log_run

_NOT_IN_NAMES = re.compile(r"[^\w\-. /]")


def log_rows(rows: Sequence[Row], settings: Mapping[str, object], files: Iterable[Path]) -> str:
    """Log the rows of one model to the active tracking store and experiment.

    Args:
        rows: Every figure is a metric `what/load/contender/figure`.
        settings: More parameters.
        files: Artifacts.

    Returns:
        The id of the run.
    """
    about = {field.name: getattr(rows[0], field.name) for field in fields(About) if field.name != "what"}
    return log_run(f"evaluation {rows[0].model}", {**about, **settings}, metrics_of(rows), files)


def metrics_of(rows: Sequence[Row]) -> dict[str, float]:
    """Name -> value of all that was measured."""
    return {name_of(row): row.value for row in rows if row.value is not None}


def name_of(row: Row) -> str:
    """As MLflow allows it: without brackets, and with "per" for a fraction."""
    parts = (row.what, row.load, row.contender, row.figure.replace(" / ", " per "))
    return "/".join(_NOT_IN_NAMES.sub("", part) for part in parts if part)
