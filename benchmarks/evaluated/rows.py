"""The rows of the evaluation's benchmark: medians over the turns, ratios, and the bars that they are held against."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from benchmarks.engine import rounded
from benchmarks.evaluated.evaluators import OURS, STOCK, WITH_LATENCY, WITHOUT_LATENCY
from benchmarks.evaluated.job import CPU, WALL, Result
from benchmarks.evaluated.judges import FORWARD_SHARE, RIVALS, VALID
from benchmarks.evaluated.judges import OURS as JUDGES

SPEED = {WALL: "times stock, wall", CPU: "times stock, CPU"}
SHARE = "share of wall"
BARS_ARE_FOR = ("40m", 200)  # model, rows


@dataclass(frozen=True, slots=True)
class Bar:
    limit: float
    is_least: bool  # else the most

    def __str__(self) -> str:
        return f"at {'least' if self.is_least else 'most'} {self.limit:g}"

    def holds(self, value: float) -> bool:
        return value >= self.limit if self.is_least else value <= self.limit


def of_cpu(rival: str) -> str:
    """The figure that tells which part of a rival's CPU seconds a judge takes."""
    return f"CPU, of {rival}"


BARS = {  # (load, contender, figure) -> bar
    (WITH_LATENCY, OURS, SPEED[WALL]): Bar(4, is_least=True),
    (WITHOUT_LATENCY, OURS, SPEED[WALL]): Bar(0.95, is_least=True),
    ("", "judge", of_cpu("json")): Bar(0.65, is_least=False),
    ("", "judge", of_cpu("json-uncached")): Bar(0.45, is_least=False),
    ("", "judge", of_cpu("genai")): Bar(0.45, is_least=False),
    ("", "judge", FORWARD_SHARE): Bar(1.15, is_least=False),
    ("", "judge-words", FORWARD_SHARE): Bar(1.15, is_least=False),
    **{("", name, VALID): Bar(1, is_least=True) for name in JUDGES},
}


@dataclass(frozen=True, slots=True)
class About:
    """What all rows of a table have in common."""

    what: str
    model: str
    data_rows: int
    max_tokens: int
    hardware: str
    versions: str
    date: str
    command: str


@dataclass(frozen=True, slots=True)
class Row(About):
    """One figure of one contender. None is what was not measured; of a ratio only the medians are known."""

    load: str
    contender: str
    figure: str
    value: float | None
    lowest: float | None
    highest: float | None
    bar: str
    holds: bool | None  # None: there is no bar, or it is for another size
    runs: int
    failure: str


def rows_of(about: About, results: Mapping[tuple[str, str], Sequence[Result]]) -> Iterator[Row]:
    """Rows of all contenders, those that are measured before ratios of them.

    Args:
        about: For all rows.
        results: (load, contender) -> one result a turn.
    """
    measured = {key: [result for result in found if not result.failure] for key, found in results.items()}
    medians = {key: _medians(found) for key, found in measured.items() if found}
    for (load, name), found in results.items():
        yield from (_failed(about, load, name, result.failure) for result in found if result.failure)
        for figure in medians.get((load, name), {}):
            values = [result.figures[figure] for result in measured[load, name]]
            yield _row(about, load, name, figure, values)
        for figure, value in _ratios(load, name, medians):
            yield replace(_row(about, load, name, figure, [value]), runs=len(measured[load, name]))


def part_rows(about: About, results: Mapping[tuple[str, str], Sequence[Result]]) -> Iterator[Row]:
    """What our evaluator's time went into, by load; a part stands in place of the contender."""
    own = replace(about, what="parts")
    for (load, _), found in results.items():
        timed = [result for result in found if result.parts]
        if not timed:
            continue
        whole = statistics.median(result.figures[WALL] for result in timed)
        for part in timed[0].parts:
            for figure in (WALL, CPU):
                yield _row(own, load, part, figure, [result.parts[part][figure] for result in timed])
            wall = statistics.median(result.parts[part][WALL] for result in timed)
            yield replace(_row(own, load, part, SHARE, [wall / whole]), runs=len(timed))


def _medians(results: Sequence[Result]) -> dict[str, float]:
    return {name: statistics.median(result.figures[name] for result in results) for name in results[0].figures}


def _ratios(
    load: str, name: str, medians: Mapping[tuple[str, str], Mapping[str, float]]
) -> Iterator[tuple[str, float]]:
    own = medians.get((load, name), {})
    if name == OURS and (stock := medians.get((load, STOCK))):
        yield from ((ratio, stock[clock] / own[clock]) for clock, ratio in SPEED.items() if own.get(clock))
    if name in JUDGES:
        for rival in RIVALS:
            if own and (cpu := medians.get((load, rival), {}).get(CPU)):
                yield of_cpu(rival), own[CPU] / cpu


def _row(about: About, load: str, name: str, figure: str, values: Sequence[float]) -> Row:
    value, bar = statistics.median(values), BARS.get((load, name, figure))
    is_for_this = bar is not None and (about.model, about.data_rows) == BARS_ARE_FOR
    return Row(
        **asdict(about),
        load=load,
        contender=name,
        figure=figure,
        value=rounded(value),
        lowest=rounded(min(values)),
        highest=rounded(max(values)),
        bar="" if bar is None else str(bar),
        holds=bar.holds(value) if bar is not None and is_for_this else None,
        runs=len(values),
        failure="",
    )


def _failed(about: About, load: str, name: str, failure: str) -> Row:
    return Row(**asdict(about), load=load, contender=name, figure="", value=None, lowest=None, highest=None, bar="",
               holds=None, runs=0, failure=failure)  # fmt: skip
