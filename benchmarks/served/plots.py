"""The rows of the servers' benchmark as plots over the number of clients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.served.rows import Row


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a contender in a plot."""

    figure: str  # of a row
    answers: str
    style: str
    label: str


@dataclass(frozen=True, slots=True)
class Plot:
    name: str
    axis: str
    lines: tuple[Line, Line]
    logarithmic: bool


PLOTS = (
    Plot(
        "throughput",
        "output tokens a second",
        (
            Line("output_tokens_per_second", "streams", "-o", "streams"),
            Line("output_tokens_per_second", "whole", ":s", "whole answers"),
        ),
        logarithmic=False,
    ),
    Plot(
        "first_token",
        "time to first token [s]",
        (Line("ttft_p50", "streams", "-o", "p50"), Line("ttft_p99", "streams", "--^", "p99")),
        logarithmic=True,
    ),
    Plot(
        "between_tokens",
        "inter-token latency [s]",
        (Line("itl_p50", "streams", "-o", "p50"), Line("itl_p99", "streams", "--^", "p99")),
        logarithmic=True,
    ),
)


def plot(rows: Sequence[Row], folder: Path, stem: str) -> Iterator[Path]:
    """Write a PNG for each of `PLOTS`, with a panel for each length of prompts; the rows are of one model."""
    closed = [row for row in rows if row.clients is not None]
    for wanted in PLOTS:
        yield _draw(wanted, closed, rows[0], folder / f"{stem}_{wanted.name}.png")


def _draw(wanted: Plot, rows: Sequence[Row], first: Row, path: Path) -> Path:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lengths = list(dict.fromkeys(row.prompts for row in rows)) or [""]
    drawing, axes = pyplot.subplots(
        1, len(lengths), figsize=(6.0 * len(lengths) + 2, 4.5), squeeze=False, layout="constrained"
    )
    for axis, length in zip(axes[0], lengths, strict=True):
        _panel(axis, wanted, [row for row in rows if row.prompts == length])
        axis.set_title(f"prompts: {length}" + ("" if length == "short" else " tokens"), fontsize=9)
    drawing.legend(*axes[0][0].get_legend_handles_labels(), fontsize=7, loc="outside right upper")
    drawing.suptitle(f"Served Llama {first.model}, {first.date}\n{first.hardware}", fontsize=9)
    drawing.savefig(path, dpi=120)
    pyplot.close(drawing)
    return path


def _panel(axis: Any, wanted: Plot, rows: Sequence[Row]) -> None:
    clients = sorted({row.clients for row in rows if row.clients is not None})
    for number, contender in enumerate(dict.fromkeys(row.contender for row in rows)):
        for line in wanted.lines:
            own = [row for row in rows if row.contender == contender and row.answers == line.answers]
            points = [(row.clients, value) for row in own if (value := getattr(row, line.figure)) is not None]
            if points:
                axis.plot(
                    *zip(*points, strict=True), line.style, color=f"C{number}", label=f"{contender}, {line.label}"
                )
    axis.set_xscale("log", base=2)
    axis.set_xticks(clients, [str(number) for number in clients])
    if wanted.logarithmic and axis.lines:
        axis.set_yscale("log")
    else:
        axis.set_ylim(bottom=0)
    axis.set_xlabel("clients")
    axis.set_ylabel(wanted.axis)
