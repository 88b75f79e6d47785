"""Quality and latency of variants over the rows that all of them have, so that a failed row favours nobody."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mlflow_llm_plugins.evaluation.comparison.figures import common_rows, figure_over, main_figure
from mlflow_llm_plugins.evaluation.comparison.measures import Measure
from mlflow_llm_plugins.evaluation.comparison.summary import size_kind
from mlflow_llm_plugins.evaluation.comparison.trial import Trial

_LATENCIES = ("latency", "loaded_latency")  # the better one first


@dataclass(frozen=True, slots=True)
class ParetoPoint:
    """One variant."""

    variant: str
    latency: float  # seconds
    quality: float
    error_rate: float  # of all its rows
    size: float | None  # bytes; None where sizes are not known of all


@dataclass(frozen=True, slots=True)
class ParetoPoints:
    """The variants that have both."""

    points: Sequence[ParetoPoint]
    variants: Sequence[str]  # of the whole comparison
    quality: Measure
    latency: str  # which one
    size: str | None  # which one
    rows: int  # that the quality is of
    all_rows: int


def pareto_points(
    trials: Sequence[Trial], quality: Measure | None, measures: Sequence[Measure]
) -> ParetoPoints | None:
    """Find them; None where no variant has both, or no row is common to all.

    Args:
        trials: In the order of colors.
        quality: Of the vertical axis; None: there is none.
        measures: Of the comparison, latencies among them.
    """
    if quality is None:
        return None
    kinds = [measure for name in _LATENCIES for measure in measures if measure.name == name]
    done = [trial for trial in trials if trial.rows is not None and main_figure(trial, quality) is not None]
    timed = [trial for trial in done if any(main_figure(trial, kind) is not None for kind in kinds)]
    latency = next((kind for kind in kinds if all(main_figure(trial, kind) is not None for trial in timed)), None)
    if not timed or latency is None:
        return None
    common, in_time = common_rows(timed, quality), common_rows(timed, latency)
    size = size_kind([trial.figures for trial in timed])
    size = size if all(size in trial.figures for trial in timed) else None
    points = [
        ParetoPoint(
            trial.name,
            figure_over(trial, latency, in_time),
            figure_over(trial, quality, common),
            trial.figures.get("error_rate", 0.0),
            None if size is None else trial.figures[size],
        )
        for trial in timed
    ]
    known = [point for point in points if math.isfinite(point.latency) and math.isfinite(point.quality)]
    names = [trial.name for trial in trials]
    return ParetoPoints(known, names, quality, latency.name, size, int(common.sum()), len(common)) if known else None
