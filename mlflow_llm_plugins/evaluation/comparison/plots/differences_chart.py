"""A forest plot: the difference of each variant to the baseline, with its interval, a panel for each metric."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mlflow_llm_plugins.evaluation.comparison.measures import SECONDS
from mlflow_llm_plugins.evaluation.results.plots.canvas import new_figure, plain, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PANELS = 24
_COLORS = {"better": "#009e73", "worse": "#d55e00"}  # other lines are grey
_MARKS = {"better": "^", "worse": "v"}  # also told apart without colors
_COLUMNS = 3
_WIDTH, _LINE, _EXTRA = 3.9, 0.28, 0.85  # inches


def differences_chart(differences: pd.DataFrame, level: float) -> Figure | None:
    """Draw a panel for each metric that has differences, with the line of no difference.

    Args:
        differences: As `differences_table` makes it; lines without an estimate are left out.
        level: Of the intervals.
    """
    known = differences[np.isfinite(differences["estimate"].astype(float))]
    panels = list(known.groupby(["metric", "kind"], sort=False))
    if not panels:
        return None
    shown = panels[:MOST_PANELS]
    columns = min(_COLUMNS, len(shown))
    lines = math.ceil(len(shown) / columns)
    variants = list(dict.fromkeys(str(name) for name in known["variant"]))
    height = lines * (_LINE * len(variants) + _EXTRA) + 0.7
    figure = new_figure(max(columns * _WIDTH, 6.5), height)
    grid = list(figure.subplots(lines, columns, squeeze=False, sharey=True).flat)
    for axes, ((metric, kind), frame) in zip(grid, shown, strict=False):
        _draw(axes, f"{metric}: {kind}{' (s)' if metric in SECONDS else ''}", frame, variants)
    for axes in grid[len(shown) :]:
        axes.set_axis_off()
    hidden = f"; {len(panels) - len(shown)} more in the table" if len(shown) < len(panels) else ""
    baseline = plain(str(known["baseline"].iloc[0]))
    title = f"Against {baseline}, with {level:.3g} intervals. ▲ better  ▼ worse  ● unclear or no verdict{hidden}"
    figure.suptitle(title, fontsize=9, y=1 - 0.1 / height)
    figure.tight_layout()
    return figure


def _draw(axes: Axes, title: str, frame: pd.DataFrame, variants: Sequence[str]) -> None:
    nothing = 1.0 if title.endswith("ratio of perplexities") else 0.0
    axes.axvline(nothing, color="0.3", linewidth=0.8, linestyle="--")
    for line in frame.to_dict("records"):
        verdict = str(line["verdict"])
        at, color = variants.index(line["variant"]), _COLORS.get(verdict, "0.45")
        if np.isfinite([line["low"], line["high"]]).all():
            axes.plot([line["low"], line["high"]], [at, at], "|-", color=color, linewidth=1.5, markersize=6)
        axes.plot([line["estimate"]], [at], _MARKS.get(verdict, "o"), color=color, markersize=6)
    axes.set_yticks(range(len(variants)), [plain(name) for name in variants])
    axes.set_ylim(len(variants) - 0.4, -0.6)
    axes.set_title(plain(title) if len(title) <= 34 else title.replace("$", r"\$"), fontsize=8, loc="left")
    axes.locator_params(axis="x", nbins=5)
    tidy(axes)
