"""The CSV files of the benchmarks: which columns say what a row is of, which are ratios, and which figures."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CsvRow = Mapping[str, str]
Columns = Mapping[str, str]  # column of the file -> heading


@dataclass(frozen=True, slots=True)
class Section:
    """One benchmark, which writes one file or some."""

    name: str  # of the module
    title: str
    files: str  # glob
    keys: Columns
    ratios: Columns
    figures: Columns
    notes: str = ""
    has_lines_of_figures: bool = False  # a row of the file is one figure of `benchmarks.figures`

    def tables(self, folder: Path) -> Iterator[tuple[Path, list[CsvRow]]]:
        """The files that are there, in order of their names, with their rows."""
        for path in sorted(folder.glob(self.files)):
            if rows := read(path):
                yield path, rows

    def metrics(self, rows: Sequence[CsvRow]) -> dict[str, float]:
        """Name -> value of all that was measured, "load/contender/figure"."""
        found: dict[str, float] = {}
        for row in rows:
            place = "/".join(row[key] for key in self.keys if row.get(key))
            for column in (*self.ratios, *self.figures):
                if (value := number(row.get(column, ""))) is not None:
                    found[f"{place}/{column}"] = value
        return found


def read(path: Path) -> list[CsvRow]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def number(text: str | None) -> float | None:
    """None where it is none."""
    try:
        return float(text or "")
    except ValueError:
        return None


_FIGURES = {
    "keys": {"load": "load", "figure": "figure", "contender": "contender"},
    "ratios": {"times_baseline": "times the baseline"},
    "figures": {"value": "median", "lowest": "min", "highest": "max"},
    "has_lines_of_figures": True,
}
SECTIONS = (
    Section(
        "serve",
        "Serving over HTTP",
        "serve_*.csv",
        keys={"prompts": "prompts", "load": "load", "answers": "answers", "contender": "contender"},
        ratios={
            "baseline_tokens_x": "tokens/s, {baseline} x",
            "baseline_ttft_x": "first token, {baseline} x",
            "baseline_e2el_x": "all of it, {baseline} x",
        },
        figures={
            "output_tokens_per_second": "tokens/s",
            "ttft_p50": "first token p50 [s]",
            "itl_p99": "next tokens p99 [s]",
            "e2el_p50": "all of it p50 [s]",
            "health_p99": "health p99 [s]",
            "peak_rss_mb": "RSS [MB]",
        },
        notes='"{baseline} x": so many times better {baseline} is than the row; below 1 the row is better.',
    ),
    Section(
        "prefix",
        "A system prompt that requests share, with prefix caching and without",
        "prefix_*.csv",
        **_FIGURES,
        notes="Times the same server without prefix caching.",
    ),
    Section(
        "engine",
        "Engines without HTTP",
        "engine_*.csv",
        keys={"load": "load", "figure": "figure", "contender": "contender"},
        ratios={"speed_wall": "x stock, wall", "speed_cpu": "x stock, CPU", "roofline": "of the roofline"},
        figures={"wall": "wall", "wall_min": "min", "wall_max": "max", "cpu": "CPU", "step_mb": "reads [MB]"},
        notes="Of the roofline: the share of the memory's bandwidth at which a decode step reads.",
    ),
    Section(
        "quality",
        "Quality and speed of the recipes",
        "quality_*.csv",
        **_FIGURES,
        notes="Quality against float32 over the held-out texts; times the speed of float32, above 1 is faster.",
    ),
    Section(
        "loading", "Loading", "loading_*.csv", **_FIGURES, notes="Times the engine transformers; above 1 is better."
    ),
    Section(
        "evaluation",
        "Evaluation",
        "evaluation_*.csv",
        keys={"what": "what", "load": "load", "contender": "contender", "figure": "figure"},
        ratios={},
        figures={"value": "median", "lowest": "min", "highest": "max", "bar": "bar", "holds": "holds"},
    ),
    Section(
        "relay",
        "The relay of a deployment",
        "relay.csv",
        keys={"what": "what"},
        ratios={"cost": "cost"},
        figures={"direct": "direct", "relayed": "relayed", "at_most": "at most", "holds": "holds"},
    ),
    Section(
        "import_cost",
        "What the package costs those who only use MLflow",
        "import_cost.csv",
        keys={"what": "what", "clock": "clock"},
        ratios={"ratio": "with / without"},
        figures={"with_ms": "with [ms]", "without_ms": "without [ms]", "bar": "bar", "holds": "holds"},
    ),
    Section(
        "log_model",
        "Logging a model",
        "log_model.csv",
        keys={"what": "what"},
        ratios={"ratio": "ratio"},
        figures={"value": "ours", "compared_with": "compared with", "bar": "bar", "holds": "holds"},
    ),
    Section(
        "out_of_memory",
        "Requests that a GPU's memory cannot hold",
        "out_of_memory_*.csv",
        keys={"load": "load"},
        ratios={},
        figures={"requests": "requests", "outcome": "outcome"},
        notes="Before, while and after the memory was taken away.",
    ),
)
