"""The scores of each metric, one small histogram each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mlflow_llm_plugins.evaluation.results.plots.canvas import COLORS, finite, new_figure, plain, plain_numbers, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PANELS = 12
_COLUMNS = 4
_MOST_BARS = 12  # whole numbers in a wider range are shown like any other
_BINS = 24
_HEIGHT = 2.3  # inches of a panel


def score_histograms(scores: Mapping[str, Iterable[Any] | None]) -> Figure | None:
    """Draw how the scores of each metric are spread.

    Args:
        scores: Metric -> one score a row; what is no number is left out, and a metric without one altogether.

    Returns:
        One panel for each of the first 12 metrics, whole numbers as bars; None if there is none.
    """
    numeric = {name: values for name, column in scores.items() if (values := finite(column)).size}
    if not numeric:
        return None
    shown = list(numeric.items())[:MOST_PANELS]
    columns = min(_COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    height = _HEIGHT * rows + 0.4
    figure = new_figure(2.9 * columns + 0.4, height)
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for panel, (name, values) in zip(panels, shown, strict=False):
        _draw(panel, name, values)
    for panel in list(panels)[len(shown) :]:
        panel.set_visible(False)
    _title(figure, len(shown), len(numeric))
    spaces = {"left": 0.45 / figure.get_figwidth(), "right": 0.99, "bottom": 0.3 / height, "top": 1 - 0.65 / height}
    figure.subplots_adjust(**spaces, wspace=0.25, hspace=0.45)  # tight_layout would draw everything twice
    return figure


def _title(figure: Figure, shown: int, metrics: int) -> None:
    left_out = f", first {shown} of {metrics} metrics" if shown < metrics else ""
    figure.suptitle(f"Rows by score (dashed: mean{left_out})", fontsize=10, y=1 - 0.12 / figure.get_figheight())


def _draw(axes: Axes, name: str, values: np.ndarray) -> None:
    low, high = values.min(), values.max()
    if np.all(values == np.round(values)) and high - low <= _MOST_BARS:
        _draw_bars(axes, values)
    elif _is_spread(values):
        axes.hist(values, bins=_BINS, color=COLORS[0])
        axes.locator_params(axis="x", nbins=4)
        plain_numbers(axes)
    else:
        _draw_one_bar(axes, values)
    axes.axvline(values.mean(), color="black", linestyle="--", linewidth=1)
    axes.set_title(f"{plain(name)} (n={values.size})", fontsize=8)
    axes.locator_params(axis="y", nbins=4, integer=True)
    tidy(axes)


def _is_spread(values: np.ndarray) -> bool:
    """Whether bins between the lowest and the highest value can be told apart by their floats."""
    low, high = float(values.min()), float(values.max())
    return high - low > 1e-9 * max(abs(low), abs(high))


def _draw_one_bar(axes: Axes, values: np.ndarray) -> None:
    value = float(values[0])
    reach = 0.5 * abs(value) or 1.0
    axes.bar(value, values.size, width=0.2 * reach, color=COLORS[0])
    axes.set_xlim(value - reach, value + reach)
    axes.set_xticks([value], [f"{value:.4g}"])


def _draw_bars(axes: Axes, values: np.ndarray) -> None:
    numbers, counts = np.unique(values, return_counts=True)
    axes.bar(numbers, counts, width=0.7, color=COLORS[0])
    ticks = np.arange(numbers[0], numbers[-1] + 1)
    axes.set_xticks(ticks, [f"{tick:.0f}" for tick in ticks])
    axes.set_xlim(ticks[0] - 0.8, ticks[-1] + 0.8)
