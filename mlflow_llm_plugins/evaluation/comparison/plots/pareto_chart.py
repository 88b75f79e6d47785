"""Quality against latency, with the variants that no other one beats in both."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mlflow_llm_plugins.evaluation.comparison.measures import Measure
from mlflow_llm_plugins.evaluation.comparison.pareto import pareto_front
from mlflow_llm_plugins.evaluation.comparison.plots.colors import colors_of
from mlflow_llm_plugins.evaluation.results.plots.canvas import new_figure, plain, plain_numbers, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LATENCIES = {
    "latency": "latency, one request at a time (s)",
    "loaded_latency/mean": "latency, all rows in flight (s)",
}
_SIZES = ("model/weight_bytes", "model/size_bytes")  # weights first: an artifact may only refer to them
_LARGEST, _PLAIN = 900.0, 90.0  # areas in square points


def pareto_chart(table: pd.DataFrame, quality: Measure) -> Figure | None:
    """Draw the variants that have both; the area of a marker is the size of the model where all sizes are known.

    Args:
        table: As `summary_table` makes it.
        quality: Of the vertical axis.
    """
    latency = _latency_of_all(table, quality.name)
    if latency is None:
        return None
    known = table[table[latency].notna() & table[quality.name].notna()]
    points = [(float(x), float(y)) for x, y in zip(known[latency], known[quality.name], strict=True)]
    greater = bool(quality.greater_is_better)
    front = pareto_front(points, (False, greater))
    figure = new_figure(7, 4.8)
    axes = figure.add_subplot()
    line = [points[i] for i in front]
    axes.step(*zip(*line, strict=True), where="post", color="0.6", linewidth=1.2, zorder=1, label="Pareto front")
    areas, about_size = _areas(known)
    colors = colors_of([str(name) for name in table["variant"]])
    for i, (name, point) in enumerate(zip(known["variant"], points, strict=True)):
        axes.scatter(
            *point, s=areas[i], color=colors[str(name)], alpha=0.85, edgecolor="black" if i in front else "none"
        )
        offset = (0, np.sqrt(areas[i]) / 2 + 3)
        axes.annotate(plain(str(name)), point, offset, textcoords="offset points", ha="center", fontsize=8)
    axes.margins(0.2, 0.2)
    side = "higher" if greater else "lower"
    axes.set_xlabel(f"{_LATENCIES[latency]}, lower is better", fontsize=9)
    axes.set_ylabel(f"{plain(quality.name)}, {side} is better", fontsize=9)
    axes.set_title(f"Quality against latency{about_size}", fontsize=10)
    axes.legend(fontsize=8, frameon=False)
    plain_numbers(axes)
    tidy(axes)
    figure.tight_layout()
    return figure


def _latency_of_all(table: pd.DataFrame, quality: str) -> str | None:
    """The first kind of latency that all variants with the quality and any latency have."""
    kinds = [name for name in _LATENCIES if name in table]
    if quality not in table or not kinds:
        return None
    timed = table[table[quality].notna() & table[kinds].notna().any(axis=1)]
    return next((name for name in kinds if len(timed) and timed[name].notna().all()), None)


def _areas(known: pd.DataFrame) -> tuple[list[float], str]:
    for name in _SIZES:
        if name in known and known[name].notna().all() and (known[name].astype(float) > 0).all():
            sizes = known[name].astype(float)
            return [max(_LARGEST * size / sizes.max(), 12.0) for size in sizes], f"; area: {name}"
    return [_PLAIN] * len(known), ""
