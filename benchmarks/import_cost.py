"""What an installed package costs those who only use MLflow: `import mlflow` and `start_run`, with it and without.

    python -m benchmarks.import_cost [--runs 20] [--out benchmarks/results]

The package must be installed. Each side is a folder of links to all of site-packages, on one side without this
distribution (and, for `start_run`, with another one that gives the same tags as constants), so that two processes
differ in what is installed and in nothing else. A run is a pair of fresh processes that take turns, call by call:
whatever else the machine does hits both. Figures are medians.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.progress import track
from rich.table import Table

from benchmarks.report import Origin, save, show

DISTRIBUTION = "mlflow-llm-plugins"
PACKAGE = "mlflow_llm_plugins"
STARTS = 20  # calls of start_run in each process, after the first
CHILD_LIFETIME_S = 600

# A child does `action` once for each line that it is sent, and answers [wall seconds, CPU seconds]; CPU is user
# and system time of the process.
PRELUDE = "import json, site, sys, time; site.addsitedir(sys.argv[1])"
ANSWER = """
print("ready", flush=True)
for _ in sys.stdin:
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]), flush=True)
"""
IMPORT = """
def action():
    import mlflow
"""
START_RUN = """
import mlflow
def action():
    with mlflow.start_run():
        pass
"""
RESOLVE_TAGS = """
from mlflow.tracking.context.registry import resolve_tags as action
"""
PRINT_TAGS = """
from mlflow_llm_plugins.run_context import LLMRunContextProvider
print(json.dumps(LLMRunContextProvider().tags()))
"""
CONSTANT_PROVIDER = """
TAGS = {tags!r}
class ConstantTags:
    def in_context(self):
        return True
    def tags(self):
        return TAGS
"""

Times = list[float]  # wall, CPU; seconds


@dataclass(frozen=True)
class Bar:
    """How much more the side with the package may take: a factor, and so many seconds."""

    factor: float = 1.0
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"at most +{self.seconds * 1e3:.0f} ms" if self.seconds else f"at most {self.factor}x"

    def holds(self, with_package: float, without: float) -> bool:
        return with_package <= without * self.factor + self.seconds


BARS = {
    "import mlflow": Bar(factor=1.05),
    "first start_run": Bar(seconds=0.05),
    "first resolve_tags": Bar(seconds=0.05),  # all of start_run that can differ, without the database's noise
    "start_run": Bar(factor=1.05),
}


@dataclass(frozen=True)
class Row:
    what: str
    clock: str  # "wall" or "cpu"
    with_ms: float
    without_ms: float
    ratio: float
    bar: str
    holds: bool
    runs: int
    samples: int
    hardware: str
    versions: str
    date: str
    command: str


def installed_in() -> Path:
    """The folder that has the distribution."""
    return Path(importlib.metadata.distribution(DISTRIBUTION).locate_file("")).resolve()


def missing() -> str:
    """Why this cannot be measured here; empty: it can."""
    if any(installed_in().glob(f"{PACKAGE}-*.dist-info")):
        return ""
    return f"{DISTRIBUTION} is not installed, its sources are only linked: pip install ."


@contextmanager
def sides(folder: Path) -> Iterator[dict[str, Path]]:
    """Folders for the path: as installed, without the package, and with constant tags in its place."""
    site_packages = installed_in()
    found = {name: folder / name for name in ("with", "without", "constant")}
    for name, side in found.items():
        side.mkdir()
        for entry in site_packages.iterdir():
            if name == "with" or PACKAGE not in entry.name:
                (side / entry.name).symlink_to(entry)
    with child(PRINT_TAGS, found["with"], folder) as process:
        add_constant_provider(found["constant"], json.loads(process.stdout.readline()))
    yield found


def add_constant_provider(side: Path, tags: dict[str, str]) -> None:
    (side / "constant_tags.py").write_text(CONSTANT_PROVIDER.format(tags=tags), encoding="utf-8")
    information = side / "constant_tags-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: constant-tags\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        "[mlflow.run_context_provider]\nconstant = constant_tags:ConstantTags\n"
    )


@contextmanager
def child(script: str, side: Path, folder: Path) -> Iterator[subprocess.Popen]:
    """A fresh interpreter that sees the standard library and `side`, and a SQLite store in `folder`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
    environment["MLFLOW_DISABLE_TELEMETRY"] = "true"
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", f"{PRELUDE}\n{script}", str(side)],
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(CHILD_LIFETIME_S, process.kill)
    watchdog.start()
    try:
        with process:
            yield process
    finally:
        watchdog.cancel()


def race(action: str, pair: dict[str, Path], calls: int, turn: int, folder: Path) -> dict[str, list[Times]]:
    """Let one fresh process for each side of the pair do the action, call by call in turns."""
    times: dict[str, list[Times]] = defaultdict(list)
    with ExitStack() as stack:
        processes = {name: stack.enter_context(child(action + ANSWER, side, folder)) for name, side in pair.items()}
        for process in processes.values():
            process.stdout.readline()  # ready
        for call in range(turn, turn + calls):
            for name in sorted(processes, reverse=bool(call % 2)):
                print(file=processes[name].stdin, flush=True)
                times[name].append(json.loads(processes[name].stdout.readline()))
    return times


def measure(found: dict[str, Path], runs: int, folder: Path) -> dict[str, dict[str, list[Times]]]:
    """What -> "with" or "without" -> times of every sample."""
    imports = {"with": found["with"], "without": found["without"]}
    starts = {"with": found["with"], "without": found["constant"]}
    figures: dict[str, dict[str, list[Times]]] = {what: defaultdict(list) for what in BARS}
    race(START_RUN, {"constant": found["constant"]}, 1, 0, folder)  # creates the database
    race(START_RUN, starts, 1, 0, folder)  # compiles, and fills the disk cache
    for turn in track(range(runs), description="measuring"):
        for name, times in race(IMPORT, imports, 1, turn, folder).items():
            figures["import mlflow"][name] += times
        for name, times in race(RESOLVE_TAGS, starts, 1, turn, folder).items():
            figures["first resolve_tags"][name] += times
        for name, times in race(START_RUN, starts, 1 + STARTS, turn, folder).items():
            figures["first start_run"][name] += times[:1]
            figures["start_run"][name] += times[1:]
    return figures


def summarize(figures: dict[str, dict[str, list[Times]]], runs: int) -> Iterator[Row]:
    for what, bar in BARS.items():
        for index, clock in enumerate(("wall", "cpu")):
            ours, theirs = (
                statistics.median(times[index] for times in figures[what][side]) for side in ("with", "without")
            )
            yield Row(
                what=what,
                clock=clock,
                with_ms=round(ours * 1e3, 3),
                without_ms=round(theirs * 1e3, 3),
                ratio=round(ours / theirs, 4),
                bar=str(bar),
                holds=bar.holds(ours, theirs),
                runs=runs,
                samples=len(figures[what]["with"]),
                **asdict(Origin.of("benchmarks.import_cost", ("mlflow", DISTRIBUTION))),
            )


def table_of(rows: list[Row]) -> Table:
    table = Table(
        title=f"Medians of {rows[0].runs} runs, {rows[0].date}", caption=f"{rows[0].hardware}, {rows[0].versions}"
    )
    for column in ("", "clock", "with [ms]", "without [ms]", "difference [ms]", "ratio", "bar", ""):
        table.add_column(column, justify="right" if "[ms]" in column or column == "ratio" else "left")
    for row in rows:
        table.add_row(
            row.what,
            row.clock,
            f"{row.with_ms:.2f}",
            f"{row.without_ms:.2f}",
            f"{row.with_ms - row.without_ms:+.2f}",
            f"{row.ratio:.3f}",
            row.bar,
            "holds" if row.holds else "missed",
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="pairs of fresh processes for each figure")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the CSV")
    options = parser.parse_args()
    if reason := missing():
        raise SystemExit(reason)
    with tempfile.TemporaryDirectory() as folder, sides(Path(folder)) as found:
        rows = list(summarize(measure(found, options.runs, Path(folder)), options.runs))
    show(table_of(rows), width=120)
    print(f"saved {save(rows, options.out / 'import_cost.csv')}")


if __name__ == "__main__":
    main()
