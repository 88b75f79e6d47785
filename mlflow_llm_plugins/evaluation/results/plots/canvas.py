"""Figures and texts as all plots use them: matplotlib's objects without pyplot, so that no global state is touched."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 100
COLORS = ("#2a78b5", "#e07b39")
_LONGEST = 34


def new_figure(width: float, height: float) -> Figure:
    """A figure of so many inches that renders without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def plain(text: str) -> str:
    """A name as matplotlib prints it: no formulas between dollars, not longer than an axis."""
    short = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
    return short.replace("$", r"\$")


def plain_numbers(axes: Axes) -> None:
    """Have each tick of the x axis tell its number alone, without a factor in the corner."""
    axes.xaxis.set_major_formatter("{x:.4g}")


def tidy(axes: Axes) -> None:
    """Leave out the frame's upper and right line."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def finite(values: Iterable[Any] | None) -> np.ndarray:
    """The numbers among some scores, truth values as 0 and 1."""
    given = () if values is None else values
    numbers = [float(value) for value in given if isinstance(value, Real | np.bool_)]
    array = np.asarray(numbers, dtype=float)
    known: np.ndarray = array[np.isfinite(array)]
    return known
