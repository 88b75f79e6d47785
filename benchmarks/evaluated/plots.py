"""The rows of the evaluation's benchmark as bars: a panel for each figure, with its bar where it has one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.evaluated.job import CPU, WALL
from benchmarks.evaluated.judges import FORWARD_SHARE, RIVALS
from benchmarks.evaluated.rows import BARS, SPEED, Row, of_cpu

PANELS = {
    "evaluator": (WALL, CPU, *SPEED.values()),
    "parts": (WALL, CPU),
    "judge": (CPU, WALL, FORWARD_SHARE, *map(of_cpu, RIVALS)),
}


def plot(rows: Sequence[Row], path: Path) -> Path:
    """Write a PNG of rows with the same `what`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    first = rows[0]
    panels = [figure for figure in PANELS[first.what] if any(row.figure == figure for row in rows)] or [""]
    lines = len({(row.load, row.contender) for row in rows})
    drawing, axes = pyplot.subplots(
        len(panels), 1, figsize=(8, (0.7 + 0.28 * lines) * len(panels) + 1), squeeze=False, layout="constrained"
    )
    for axis, figure in zip(axes[:, 0], panels, strict=True):
        _panel(axis, [row for row in rows if row.figure == figure and row.value is not None])
        axis.set_xlabel(figure, fontsize=8)
    drawing.suptitle(f"{first.what}, Llama {first.model}, {first.data_rows} rows, {first.date}\n{first.hardware}",
                     fontsize=9)  # fmt: skip
    drawing.savefig(path, dpi=120)
    pyplot.close(drawing)
    return path


def _panel(axis: Any, rows: Sequence[Row]) -> None:
    loads = list(dict.fromkeys(row.load for row in rows))
    for number, row in enumerate(rows):
        axis.barh(number, row.value, color=f"C{loads.index(row.load)}", height=0.7)
        if bar := BARS.get((row.load, row.contender, row.figure)):
            axis.plot([bar.limit, bar.limit], [number - 0.5, number + 0.5], color="black", linewidth=2)
    names = [", ".join(filter(None, (row.contender, row.load))) for row in rows]
    axis.set_yticks(range(len(rows)), names, fontsize=7)
    axis.tick_params(axis="x", labelsize=7)
    axis.invert_yaxis()
