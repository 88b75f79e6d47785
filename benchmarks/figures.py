"""Named figures of contenders, run by run: their medians as rows, a table and a plot. For the smaller benchmarks."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from benchmarks.engine import rounded, shown
from benchmarks.report import Origin, save, show

Key = tuple[str, str]  # load, contender

MORE_IS_BETTER = "tokens/s"  # begins a figure's name
ARE_RATIOS = ("perplexity ratio", "KL divergence [nats]", "top-1 agreement")  # to the baseline, by themselves
WIDTH = 150


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one run: figures by their names, or why there are none."""

    figures: Mapping[str, float] = field(default_factory=dict)
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """The median of one figure. None is what was not measured."""

    model: str
    load: str
    contender: str
    figure: str
    times_baseline: float | None  # so many times better than the baseline; above 1 is better
    baseline: str
    value: float | None
    lowest: float | None
    highest: float | None
    runs: int
    failure: str
    hardware: str
    versions: str
    date: str
    command: str


def rows_of(
    model: str, results: Mapping[Key, Sequence[Result]], baseline_of: Callable[[str], str], origin: Origin
) -> Iterator[Row]:
    """A row for each figure that was measured, and one for each contender that failed.

    Args:
        model: What ran.
        results: One a run.
        baseline_of: Contender -> the one that it is compared with, "" for none.
        origin: For all rows.
    """
    medians = {key: _medians(found) for key, found in results.items()}
    for (load, contender), found in results.items():
        about = {"model": model, "load": load, "contender": contender, "baseline": baseline_of(contender)}
        for failure in dict.fromkeys(result.failure for result in found if result.failure):
            yield Row(**about, figure="", **_blank(), runs=0, failure=failure, **asdict(origin))
        for figure, value in medians[load, contender].items():
            values = [result.figures[figure] for result in found if figure in result.figures]
            yield Row(
                **about,
                figure=figure,
                times_baseline=_ratio(figure, value, medians.get((load, baseline_of(contender)), {}).get(figure)),
                value=rounded(value),
                lowest=rounded(min(values)),
                highest=rounded(max(values)),
                runs=len(values),
                failure="",
                **asdict(origin),
            )


def _medians(results: Sequence[Result]) -> dict[str, float]:
    names = dict.fromkeys(name for result in results for name in result.figures)
    return {
        name: statistics.median(result.figures[name] for result in results if name in result.figures) for name in names
    }


def _blank() -> dict[str, None]:
    return dict.fromkeys(("times_baseline", "value", "lowest", "highest"))


def _ratio(figure: str, value: float, baseline: float | None) -> float | None:
    if not value or not baseline or figure in ARE_RATIOS:
        return None
    return rounded(value / baseline if figure.startswith(MORE_IS_BETTER) else baseline / value)


def report(rows: Sequence[Row], title: str, notes: str, folder: Path, stem: str) -> None:
    """Print the rows of one model, and save them as CSV and PNG."""
    show(table_of(rows, title, notes), width=WIDTH)
    print(f"saved {save(rows, folder / f'{stem}.csv')}")
    print(f"saved {plot(rows, title, folder / f'{stem}.png')}", flush=True)


def table_of(rows: Sequence[Row], title: str, notes: str) -> Table:
    """A line for each figure of each contender, figures of the same name together."""
    first = rows[0]
    runs = max(row.runs for row in rows)
    caption = [notes, f"{first.hardware}; {first.versions}", first.command]
    heading = f"{title}, medians of {runs} runs, {first.date}"
    table = Table(title=heading, caption=escape("\n".join(caption)), caption_justify="left")
    for column in ("load", "", "contender", "times", "the baseline", "median", "min to max"):
        table.add_column(column, justify="left" if column in ("load", "", "contender", "the baseline") else "right")
    for figure in dict.fromkeys(row.figure for row in rows):
        for row in rows:
            if row.figure == figure:
                table.add_row(*map(escape, _cells(row)))
        table.add_section()
    return table


def _cells(row: Row) -> tuple[str, ...]:
    if row.failure:
        return (row.load, "failed", row.contender, "", "", "", row.failure[:100])
    spread = f"{shown(row.lowest)} to {shown(row.highest)}"
    ratio = shown(row.times_baseline)
    return (row.load, row.figure, row.contender, ratio, row.baseline if ratio else "", shown(row.value), spread)


def plot(rows: Sequence[Row], title: str, path: Path) -> Path:
    """Bars of the medians: a panel for each figure, a bar for each contender and load."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figures = list(dict.fromkeys(row.figure for row in rows if row.figure)) or [""]
    drawing, axes = pyplot.subplots(len(figures), 1, figsize=(9, 2.6 * len(figures)), squeeze=False)
    for axis, figure in zip(axes[:, 0], figures, strict=True):
        own = [row for row in rows if row.figure == figure and row.value is not None]
        names = [" ".join(filter(None, (row.contender, row.load))) for row in own]
        axis.barh(names, [row.value for row in own])
        axis.invert_yaxis()
        axis.set_title(figure, fontsize=9)
        axis.tick_params(labelsize=7)
    drawing.suptitle(f"{title}, {rows[0].date}\n{rows[0].hardware}", fontsize=9)
    drawing.tight_layout()
    drawing.savefig(path, dpi=120)
    pyplot.close(drawing)
    return path
