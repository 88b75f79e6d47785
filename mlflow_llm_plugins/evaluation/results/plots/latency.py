"""The distribution of latencies, as a histogram and cumulated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from mlflow_llm_plugins.evaluation.results.plots.canvas import COLORS, finite, new_figure, plain_numbers, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BINS = 30
_POINTS = 400  # of a cumulated line, whatever the number of rows
_WIDE = 20  # the longest is so many times the shortest: on a linear axis the short ones would be one bar


def latency_plot(loaded: Iterable[float | None], unloaded: Iterable[float | None] = ()) -> Figure | None:
    """Draw how long answers took.

    Args:
        loaded: Seconds with all rows in flight; missing ones are left out.
        unloaded: Seconds with one request at a time.

    Returns:
        A histogram beside the cumulated share of requests; None if no latency is known.
    """
    kinds = {"all rows in flight": finite(loaded), "one at a time": finite(unloaded)}
    known = {name: seconds for name, seconds in kinds.items() if seconds.size}
    if not known:
        return None
    figure = new_figure(9, 3.6)
    histogram, cumulated = figure.subplots(1, 2)
    colors = dict(zip(kinds, COLORS, strict=True))
    _draw_histogram(histogram, known, colors)
    _draw_cumulated(cumulated, known, colors)
    figure.subplots_adjust(left=0.07, right=0.98, bottom=0.15, top=0.86, wspace=0.2)
    return figure


def _draw_histogram(axes: Axes, known: Mapping[str, np.ndarray], colors: Mapping[str, str]) -> None:
    every = np.concatenate(list(known.values()))
    edges = _edges(every)
    for name, seconds in known.items():
        axes.hist(seconds, bins=edges, color=colors[name], alpha=0.65, label=f"{name} ({seconds.size})")
    _finish(axes, every, "requests")


def _draw_cumulated(axes: Axes, known: Mapping[str, np.ndarray], colors: Mapping[str, str]) -> None:
    for name, seconds in known.items():
        shares = np.linspace(0, 1, min(_POINTS, seconds.size + 1))
        at = np.quantile(seconds, shares, method="inverted_cdf")
        p50, p90 = np.percentile(seconds, (50, 90))
        label = f"{name}: p50 {p50:.3g} s, p90 {p90:.3g} s"
        axes.step(at, shares, where="post", color=colors[name], label=label)
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.3)
    _finish(axes, np.concatenate(list(known.values())), "share of requests answered by then")


def _edges(seconds: np.ndarray) -> list[float]:
    low, high = float(seconds.min()), float(seconds.max())
    if high - low <= 1e-9 * abs(high):  # all the same
        return [low - 0.05 * abs(low) - 1e-9, high + 0.05 * abs(high) + 1e-9]
    space = np.geomspace if _is_wide(seconds) else np.linspace
    return [low, *(float(edge) for edge in space(low, high, _BINS + 1)[1:-1]), high]  # rounding would lose the ends


def _is_wide(seconds: np.ndarray) -> bool:
    return bool(0 < seconds.min() * _WIDE < seconds.max())


def _finish(axes: Axes, seconds: np.ndarray, counted: str) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    if _is_wide(seconds):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    plain_numbers(axes)
    axes.set_xlabel("latency in seconds", fontsize=9)
    axes.legend(fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0, 1))  # above, off all lines
    axes.set_ylabel(counted, fontsize=9)
    tidy(axes)
