"""Quality against latency, with the variants that no other one beats in both."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlflow_llm_plugins.evaluation.comparison.pareto import pareto_front
from mlflow_llm_plugins.evaluation.comparison.pareto_points import ParetoPoint, ParetoPoints
from mlflow_llm_plugins.evaluation.comparison.plots.colors import colors_of
from mlflow_llm_plugins.evaluation.comparison.plots.units import seconds_unit
from mlflow_llm_plugins.evaluation.results.plots.canvas import new_figure, plain, plain_numbers, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LATENCIES = {"latency": "latency, one request at a time", "loaded_latency": "latency, all rows in flight"}
_LARGEST, _SMALLEST, _PLAIN = 900.0, 12.0, 90.0  # areas in square points
_MOST_NAMES = 5  # that points have room for; more are numbered


def pareto_chart(found: ParetoPoints | None) -> Figure | None:
    """Draw the variants; the area of a marker is the size of the model where all sizes are known.

    Args:
        found: None where there is nothing to draw.
    """
    if found is None:
        return None
    unit, divisor = seconds_unit(max(point.latency for point in found.points))
    places = [(point.latency / divisor, point.quality) for point in found.points]
    greater = bool(found.quality.greater_is_better)
    front = pareto_front(places, (False, greater))
    is_numbered = len(places) > _MOST_NAMES
    figure = new_figure(9.5 if is_numbered else 7, 4.8)
    axes = figure.add_subplot()
    if len(front) > 1:
        line = [places[i] for i in front]
        axes.step(*zip(*line, strict=True), where="post", color="0.6", linewidth=1.2, zorder=1, label="Pareto front")
        axes.legend(fontsize=8, frameon=False)
    _draw_points(axes, found, places, front, is_numbered)
    side = "higher" if greater else "lower"
    axes.set_xlabel(f"{_LATENCIES[found.latency]} ({unit}), lower is better", fontsize=9)
    axes.set_ylabel(f"{plain(found.quality.name)}, {side} is better", fontsize=9)
    axes.set_title(_title(found), fontsize=10)
    plain_numbers(axes)
    tidy(axes)
    figure.tight_layout()
    return figure


def _draw_points(
    axes: Axes, found: ParetoPoints, places: list[tuple[float, float]], front: list[int], is_numbered: bool
) -> None:
    colors, areas, listed = colors_of(found.variants), _areas(found), []
    axes.margins(0.2, 0.2)
    for i, (point, place) in enumerate(zip(found.points, places, strict=True)):
        edge = "black" if i in front else "none"
        axes.scatter(*place, s=areas[i], color=colors[point.variant], alpha=0.85, edgecolor=edge)
        text = str(i + 1) if is_numbered else _name(point)
        offset = (0, np.sqrt(areas[i]) / 2 + 3)
        axes.annotate(text, place, offset, textcoords="offset points", ha="center", fontsize=8)
        listed.append(f"{i + 1}  {_name(point)}")
    if is_numbered:
        axes.text(1.03, 1, "\n".join(listed), transform=axes.transAxes, fontsize=8, va="top", linespacing=1.5)


def _name(point: ParetoPoint) -> str:
    failed = f"\n({point.error_rate:.0%} of its rows failed)" if point.error_rate else ""
    return f"{plain(point.variant)}{failed}"


def _title(found: ParetoPoints) -> str:
    rows = f" in the {found.rows} of {found.all_rows} rows that all have" if found.rows < found.all_rows else ""
    return f"Quality against latency{rows}{f'; area: {found.size}' if found.size else ''}"


def _areas(found: ParetoPoints) -> list[float]:
    sizes = [point.size or 0.0 for point in found.points]
    if found.size is None or not max(sizes):
        return [_PLAIN] * len(sizes)
    return [max(_LARGEST * size / max(sizes), _SMALLEST) for size in sizes]
