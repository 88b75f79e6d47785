"""Bars of all variants with their intervals, a panel for each metric."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mlflow_llm_plugins.evaluation.comparison.plots.colors import colors_of
from mlflow_llm_plugins.evaluation.comparison.summary import FIGURES
from mlflow_llm_plugins.evaluation.results.plots.canvas import new_figure, plain, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PANELS = 24
_COLUMNS = 4
_MOST_NUMBERS = 5  # bars of a panel that are wide enough for their number
_PANEL = (2.9, 2.3)  # inches
_SIDES = {True: "higher is better", False: "lower is better", None: ""}
# Beside what rows have; of these, smaller is better except for throughput.
_WHOLE = [name for name in FIGURES if name.startswith(("throughput/", "memory_growth/", "model/"))]


def metrics_chart(scores: pd.DataFrame, table: pd.DataFrame, level: float) -> Figure | None:
    """Draw one panel for each metric, its groups of rows side by side, a bar for each variant.

    Args:
        scores: As `scores_table` makes it.
        table: As `summary_table` makes it; figures without rows are panels without intervals.
        level: Of the intervals.
    """
    panels = [*_panels(scores), *_whole_panels(table)]
    if not panels:
        return None
    drawn = {str(name) for _, _, frame in panels for name in frame["variant"]}
    colors = {name: color for name, color in colors_of([*table["variant"]]).items() if name in drawn}
    shown = panels[:MOST_PANELS]
    columns = min(_COLUMNS, len(shown))
    lines = math.ceil(len(shown) / columns)
    width, height = max(columns * _PANEL[0], 5.5), lines * _PANEL[1] + 0.9
    figure = new_figure(width, height)
    grid = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes, (name, greater, frame) in zip(grid, shown, strict=False):
        _draw(axes, name, _SIDES[greater], frame, colors)
    for axes in grid[len(shown) :]:
        axes.set_axis_off()
    _explain(figure, colors, level, len(panels) - len(shown), height)
    return figure


def _panels(scores: pd.DataFrame) -> list[tuple[str, bool | None, pd.DataFrame]]:
    return [
        (_title(str(name), str(frame["statistic"].iloc[0])), frame["greater_is_better"].iloc[0], frame)
        for name, frame in scores.groupby("metric", sort=False)
    ]


def _title(metric: str, statistic: str) -> str:
    return metric if statistic == "mean of rows" else f"{metric} ({statistic})"


def _whole_panels(table: pd.DataFrame) -> list[tuple[str, bool | None, pd.DataFrame]]:
    panels: list[tuple[str, bool | None, pd.DataFrame]] = []
    for name in [name for name in _WHOLE if name in table]:
        known = table[table[name].notna()]
        unit, divisor = _unit(known[name].astype(float).max()) if name.endswith("_bytes") else ("", 1.0)
        frame = pd.DataFrame({"variant": known["variant"], "group": None, "value": known[name] / divisor})
        title = name.replace("bytes", unit) if unit else name
        panels.append((title, name.startswith("throughput/"), frame.assign(low=math.nan, high=math.nan)))
    return panels


def _unit(size: float) -> tuple[str, float]:
    return ("GB", 1e9) if size >= 1e9 else ("MB", 1e6)


def _draw(axes: Axes, title: str, side: str, frame: pd.DataFrame, colors: Mapping[str, str]) -> None:
    groups = list(dict.fromkeys(frame["group"]))
    variants, width = list(colors), 0.8 / len(colors)
    for line in frame.to_dict("records"):
        at = groups.index(line["group"]) + (variants.index(line["variant"]) - (len(variants) - 1) / 2) * width
        value = float(line["value"])
        bar = axes.bar(at, value, width * 0.92, color=colors[line["variant"]])
        error = np.array([[value - line["low"]], [line["high"] - value]], dtype=float)
        if np.isfinite(error).all():
            axes.errorbar(at, value, error.clip(0), fmt="none", ecolor="0.2", elinewidth=1, capsize=3)
        if len(variants) * len(groups) <= _MOST_NUMBERS:
            axes.bar_label(
                bar,
                [f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"],
                label_type="center",
                fontsize=7,
                color="white",
            )
    names = ["" if group is None else plain(str(group)) for group in groups]
    axes.set_xticks(range(len(groups)), names)
    axes.set_xlim(-0.55, len(groups) - 0.45)
    axes.axhline(0, color="0.3", linewidth=0.6)
    axes.set_title(plain(title), fontsize=9, loc="left", pad=14 if side else 6)
    axes.text(0, 1.02, side, transform=axes.transAxes, fontsize=7, color="0.4", va="bottom")
    axes.yaxis.set_major_formatter("{x:.4g}")  # or a factor in the corner hides the title
    tidy(axes)


def _explain(figure: Figure, colors: Mapping[str, str], level: float, hidden: int, height: float) -> None:
    from matplotlib.patches import Patch

    handles: list[Any] = [Patch(color=color, label=plain(name)) for name, color in colors.items()]
    more = f"; {hidden} more in the table" if hidden else ""
    figure.suptitle(f"Means with {level:.3g} intervals of resampled rows{more}", fontsize=10, y=1 - 0.12 / height)
    figure.tight_layout(rect=(0, 0.42 / height, 1, 1))
    figure.legend(handles=handles, loc="lower center", ncols=min(5, len(handles)), fontsize=8, frameon=False)
