"""All metrics at one look: each on a scale of its own, as they cannot be compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mlflow_llm_plugins.evaluation.results.plots.canvas import COLORS, finite, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_ROWS = 24
_ROW, _MARGIN = 0.42, 0.55  # inches


def metrics_overview(scores: Mapping[str, Iterable[Any] | None]) -> Figure | None:
    """Draw mean and range of each metric.

    Scores between 0 and 1 have a scale from 0 to 1; the scale of any other metric goes from its lowest score to its
    highest, or to 0 where that is near.

    Args:
        scores: Metric -> one score a row; what is no number is left out, and a metric without one altogether.

    Returns:
        One line for each of the first 24 metrics: lowest to highest score, 10th to 90th percentile, mean; None if
        there is none.
    """
    numeric = {name: values for name, column in scores.items() if (values := finite(column)).size}
    if not numeric:
        return None
    shown = list(numeric.items())[:MOST_ROWS]
    height = _ROW * len(shown) + _MARGIN
    figure = new_figure(8.5, height)
    axes = figure.add_axes((0.31, 0.1 / height, 0.48, 1 - _MARGIN / height))
    axes.set(xlim=(-0.01, 1.01), ylim=(len(shown) - 0.3, -0.5))
    axes.set_axis_off()  # one for all lines: twenty axes take a second to draw
    for line, (name, values) in enumerate(shown):
        _draw(axes, line, name, values)
    left_out = f"; first {len(shown)} of {len(numeric)} metrics" if len(shown) < len(numeric) else ""
    title = f"Metrics: mean (dot), 10th to 90th percentile (bar), lowest to highest (line){left_out}"
    figure.suptitle(title, fontsize=9, y=1 - 0.12 / height)
    return figure


def _draw(axes: Axes, line: int, name: str, values: np.ndarray) -> None:
    start, end = _limits(float(values.min()), float(values.max()))
    figures = [*np.percentile(values, (0, 10, 90, 100)), values.mean()]
    low, p10, p90, high, mean = [(float(figure) - start) / (end - start) for figure in figures]
    axes.plot([0, 1], [line + 0.2] * 2, "|-", color="black", linewidth=0.6, markersize=4)
    axes.plot([low, high], [line] * 2, color="0.6", linewidth=1)
    axes.plot([p10, p90], [line] * 2, color=COLORS[0], linewidth=6, alpha=0.5, solid_capstyle="butt")
    axes.plot([mean], [line], "o", color=COLORS[0], markersize=6)
    for at, text, side in ((0, start, "left"), (1, end, "right")):
        axes.text(at, line + 0.33, f"{text:.4g}", ha=side, va="top", fontsize=6)
    axes.text(-0.03, line, plain(name), ha="right", va="center", fontsize=8)
    axes.text(1.03, line, f"{values.mean():.4g}  (n={values.size})", ha="left", va="center", fontsize=8)


def _limits(low: float, high: float) -> tuple[float, float]:
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    if 0 < low < 0.5 * high:
        low = 0.0
    elif 0.5 * low < high < 0:
        high = 0.0
    if high - low > 1e-9 * max(abs(low), abs(high)):
        return low, high
    margin = 0.5 * abs(high) or 1.0
    return low - margin, high + margin
