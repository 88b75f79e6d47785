"""Bars of all variants with their intervals, a panel for each metric."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mlflow_llm_plugins.evaluation.comparison.measures import SECONDS
from mlflow_llm_plugins.evaluation.comparison.plots.colors import colors_of, hatches_of
from mlflow_llm_plugins.evaluation.comparison.plots.units import bytes_unit, seconds_unit
from mlflow_llm_plugins.evaluation.comparison.summary import FIGURES, size_kind
from mlflow_llm_plugins.evaluation.results.plots.canvas import new_figure, plain, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PANELS = 24
_COLUMNS = 4
_MOST_NUMBERS = 5  # bars of a panel that are wide enough for their number
_PANEL = (2.9, 2.3)  # inches
_LETTER = 0.062  # inches, of the legend
_SIDES = {True: "higher is better", False: "lower is better", None: ""}
_THROUGHPUT = [name for name in FIGURES if name.startswith("throughput/")]


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
    width, height = max(columns * _PANEL[0], 5.5), lines * _PANEL[1] + 0.5
    in_line = _legend_columns(colors, width)
    height += 0.2 + 0.18 * math.ceil(len(colors) / in_line)
    figure = new_figure(width, height)
    grid = list(figure.subplots(lines, columns, squeeze=False).flat)
    hatches = hatches_of([*table["variant"]])
    for axes, (name, greater, frame) in zip(grid, shown, strict=False):
        _draw(axes, name, _side(greater, frame), frame, colors, hatches)
    for axes in grid[len(shown) :]:
        axes.set_axis_off()
    _explain(figure, colors, hatches, level, len(panels) - len(shown), in_line)
    return figure


def _panels(scores: pd.DataFrame) -> list[tuple[str, bool | None, pd.DataFrame]]:
    panels: list[tuple[str, bool | None, pd.DataFrame]] = []
    for name, frame in scores.groupby("metric", sort=False):
        numbers, unit = ["value", "low", "high"], ""
        if name in SECONDS:
            unit, divisor = seconds_unit(frame["value"].astype(float).max())
            frame = frame.assign(**{column: frame[column].astype(float) / divisor for column in numbers})
        title = _title(str(name), str(frame["statistic"].iloc[0]))
        panels.append((f"{title} ({unit})" if unit else title, frame["greater_is_better"].iloc[0], frame))
    return panels


def _title(metric: str, statistic: str) -> str:
    return metric if statistic == "mean of rows" else f"{metric} ({statistic})"


def _side(greater: bool | None, frame: pd.DataFrame) -> str:
    """Which side is better, and of how many rows the bars are where they differ within a group."""
    if "n" not in frame or (frame.groupby("group", dropna=False)["n"].nunique() == 1).all():
        return _SIDES[greater]
    rows = f"of {frame['n'].min()} to {frame['n'].max()} rows"
    return f"{_SIDES[greater]}; {rows}" if _SIDES[greater] else rows


def _whole_panels(table: pd.DataFrame) -> list[tuple[str, bool | None, pd.DataFrame]]:
    panels: list[tuple[str, bool | None, pd.DataFrame]]
    panels = [(name, True, _bars(table, name, 1.0)) for name in _THROUGHPUT if name in table]
    size = size_kind(table.to_dict("records"))
    if size is None:
        return panels
    unit, divisor = bytes_unit(table[size].astype(float).max())
    return [*panels, (size.replace("bytes", unit), False, _bars(table, size, divisor))]


def _bars(table: pd.DataFrame, name: str, divisor: float) -> pd.DataFrame:
    known = table[table[name].notna()]
    frame = pd.DataFrame({"variant": known["variant"], "group": None, "value": known[name].astype(float) / divisor})
    return frame.assign(low=math.nan, high=math.nan)


def _draw(
    axes: Axes, title: str, side: str, frame: pd.DataFrame, colors: Mapping[str, str], hatches: Mapping[str, str]
) -> None:
    groups = list(dict.fromkeys(frame["group"]))
    variants, width = list(colors), 0.8 / len(colors)
    for line in frame.to_dict("records"):
        name, value = line["variant"], float(line["value"])
        at = groups.index(line["group"]) + (variants.index(name) - (len(variants) - 1) / 2) * width
        axes.bar(at, value, width * 0.92, color=colors[name], hatch=hatches[name], edgecolor="white", linewidth=0)
        error = np.array([[value - line["low"]], [line["high"] - value]], dtype=float)
        if is_known := bool(np.isfinite(error).all()):
            axes.errorbar(at, value, error.clip(0), fmt="none", ecolor="0.2", elinewidth=1, capsize=3)
        if len(variants) * len(groups) <= _MOST_NUMBERS:
            _write(axes, at, value, float(line["low" if value < 0 else "high"]) if is_known else value)
    names = ["" if group is None else plain(str(group)) for group in groups]
    axes.set_xticks(range(len(groups)), names)
    axes.set_xlim(-0.55, len(groups) - 0.45)
    axes.margins(y=0.15)  # for the numbers
    axes.axhline(0, color="0.3", linewidth=0.6)
    axes.set_title(plain(title), fontsize=9, loc="left", pad=14 if side else 6)
    axes.text(0, 1.02, side, transform=axes.transAxes, fontsize=7, color="0.4", va="bottom")
    axes.yaxis.set_major_formatter("{x:.4g}")  # or a factor in the corner hides the title
    tidy(axes)


def _write(axes: Axes, at: float, value: float, end: float) -> None:
    """The number beyond the bar and its interval: inside, a small bar has no room for it."""
    text = f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    where = (0, -2) if value < 0 else (0, 2)
    side = "top" if value < 0 else "bottom"
    axes.annotate(text, (at, end), where, textcoords="offset points", ha="center", va=side, fontsize=7, color="0.2")


def _legend_columns(names: Iterable[str], width: float) -> int:
    """As many as fit side by side."""
    longest = max(len(plain(name)) for name in names)
    return max(1, min(5, int(width / (longest * _LETTER + 0.6))))


def _explain(
    figure: Figure, colors: Mapping[str, str], hatches: Mapping[str, str], level: float, hidden: int, in_line: int
) -> None:
    from matplotlib.patches import Patch

    height = figure.get_figheight()
    handles: list[Any] = [
        Patch(facecolor=color, hatch=hatches[name], edgecolor="white", linewidth=0, label=plain(name))
        for name, color in colors.items()
    ]
    more = f"; {hidden} more in the table" if hidden else ""
    figure.suptitle(f"Means with {level:.3g} intervals of resampled rows{more}", fontsize=10, y=1 - 0.12 / height)
    figure.tight_layout(rect=(0, (0.2 + 0.18 * math.ceil(len(handles) / in_line)) / height, 1, 1))
    figure.legend(handles=handles, loc="lower center", ncols=in_line, fontsize=8, frameon=False)
