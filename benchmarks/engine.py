"""Our engines against transformers' continuous batching as it comes, padded `generate`, and vLLM if installed.

    python -m benchmarks.engine [--device cpu] [--models 40m 300m] [--what decode prefill] [--runs 3] [--out ...]

The weights are random, built on the spot and the same for every contender. Each figure is the median of `--runs`
fresh processes, one for each contender and load, and contenders take turns. A process warms up with two short
requests before it is measured. CPU time is user and system time of the process and of the children that work for it,
in which threads that spin while they wait count as busy. The machine should have nothing else to do: a contender whose
threads spin is many times slower beside other work (OMP_WAIT_POLICY=passive in the environment ends that for all).

decode        milliseconds a step in which all rows decode, over rows x context
prefill       seconds for prompts of 1,000 tokens with 8 new ones each
throughput    generated tokens a second, requests of mixed lengths (20 to 600 in, 8 to 64 out), all there at once
sampling      a step of 16 rows by how they pick their tokens, and the share of it that picking takes
grammar       the same under a JSON schema
interference  how long 4 streams stand still while a long prompt arrives, and how long it waits for its first token

A contender is a name and its options, for example "ours:max_batch_tokens=64" or "generate:batch=1": options of `ours`
are EngineSettings, of `openvino` these and weights=int8, int4, fp16 or none (default int8), of `stock` fields of
ContinuousBatchingConfig, of `vllm` arguments of `vllm.LLM`.

Rows of `decode` say how near to the roofline they are: a step must read the weights as this engine stores them, and
keys and values of all rows in the cache's type; these bytes over the time of the step, over the bandwidth of the
memory, which `benchmarks.bandwidth` measures in the same run. Of models that fit a CPU's caches it may be above 1.

On a GPU, with up to 64 rows (an 8B model in 16 bits takes 16 GB and some), followed by what becomes of requests that
the memory cannot hold:

    python -m benchmarks.engine --device cuda --models 1b 1b-int8 1b-nf4 8b 8b-int8 8b-nf4 --what decode throughput
        --rows 1 4 16 64 --contexts 500 --runs 1
    python -m benchmarks.out_of_memory --device cuda --models 1b
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from benchmarks.loads import LOADS, Load, Sizes
from benchmarks.measure import DECODE_STEP, Figures, Job
from benchmarks.models import SHAPES
from benchmarks.report import Origin, save, show

LIBRARIES = (
    *(
        "mlflow-llm-plugins",
        "torch",
        "transformers",
        "bitsandbytes",
        "llguidance",
        "openvino",
        "openvino-genai",
        "nncf",
    ),
    "vllm",
)
BASELINE = "stock"
CPU_SWITCHES = ("ours:per_request_attention=false", "ours:packed_weights=false", "ours:tune_allocator=false")
OPTIONAL = {"vllm": "vllm", "openvino": "openvino_genai"}  # contender -> module that it needs
DEFAULT_CONTENDERS = {
    "decode": ("ours", *CPU_SWITCHES, "openvino", "openvino:weights=none", "stock", "generate", "vllm"),
    "prefill": ("ours", "openvino", "stock", "generate", "vllm"),
    "throughput": ("ours", "openvino", "stock", "generate", "generate:batch=1", "vllm"),
    "sampling": ("ours", "openvino", "stock"),
    "grammar": ("ours", "openvino"),
    "interference": ("ours", "ours:max_batch_tokens=64", "openvino", "stock", "vllm"),
}
MORE_IS_BETTER = ("tokens/s",)
ROOFLINE = ("step_mb", "bandwidth_gb_s", "roofline")
BANDWIDTH_S = 300.0
COLUMNS = (
    *("load", "", "contender", "x stock, wall", "x stock, CPU", "wall", "CPU", "reads [MB]", "of the roofline"),
    "wall, min to max",
)
WITHOUT_RATIO = ("picking, share of the step",)


@dataclass(frozen=True)
class Entry:
    """A contender with its options."""

    name: str  # as given
    contender: str
    options: dict[str, Any]

    @classmethod
    def parse(cls, text: str) -> Entry:
        contender, _, listed = text.partition(":")
        pairs = (pair.partition("=") for pair in listed.split(",") if pair)
        return cls(text, contender, {key: _plain(value) for key, _, value in pairs})


def _plain(value: str) -> Any:
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


@dataclass(frozen=True)
class Row:
    what: str
    model: str
    load: str
    figure: str
    contender: str
    speed_wall: float | None  # times as fast as stock: above 1 is faster
    speed_cpu: float | None
    wall: float | None
    cpu: float | None
    wall_min: float | None
    wall_max: float | None
    step_mb: float | None  # that a decode step must read
    bandwidth_gb_s: float | None  # of the memory, measured in the same run
    roofline: float | None  # share of the bandwidth that the step reaches
    runs: int
    failure: str
    device: str
    hardware: str
    versions: str
    date: str
    command: str


def run_child(job: Job, deadline_s: float) -> dict[str, Any]:
    """The result of one job in a fresh process, which is gone afterwards, with all that it started."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "job.json").write_text(json.dumps(asdict(job)), encoding="utf-8")
        with (folder / "log.txt").open("w", encoding="utf-8") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.measure", str(folder / "job.json"), str(folder / "result.json")],
                env=child_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a group of its own, for the signal below
            )
        try:
            process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            return {"failure": f"not finished after {deadline_s:.0f} s"}
        finally:
            kill_group(process)
        if not (folder / "result.json").exists():
            lines = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
            return {"failure": f"exit status {process.returncode}: {lines[-1] if lines else 'no output'}"}
        return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def child_environment() -> dict[str, str]:
    """This one's, without tuning of the allocator, which is the engine's own business here."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent.parent), inherited.get("PYTHONPATH", "")]))
    return {**inherited, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def kill_group(process: subprocess.Popen) -> None:
    with suppress(ProcessLookupError):  # all of it has ended by itself
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def measured_bandwidth(device: str, quick: bool) -> float | None:
    """Of the memory, bytes a second; None where it cannot be measured."""
    with tempfile.TemporaryDirectory() as name:
        result = Path(name) / "bandwidth.json"
        command = [sys.executable, "-m", "benchmarks.bandwidth", device, str(result), *["--quick"] * quick]
        try:
            subprocess.run(command, env=child_environment(), timeout=BANDWIDTH_S, check=True)
        except subprocess.SubprocessError as error:
            print(f"no roofline: {error}", file=sys.stderr)
            return None
        return float(json.loads(result.read_text(encoding="utf-8"))["bytes_per_second"])


def measure(
    what: str,
    model: str,
    device: str,
    entries: Sequence[Entry],
    loads: Sequence[Load],
    runs: int,
    deadline_s: float,
    shared: Path,
) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """(load, contender) -> results, one a run; a contender that fails once on a load is not asked again."""
    results: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    turns = [
        (load, entry)
        for run in range(runs)
        for load in loads
        for entry in sorted(entries, key=entries.index, reverse=bool(run % 2))
    ]
    for load, entry in track(turns, description=f"{what} {model}", console=Console(stderr=True)):
        found = results[load.name, entry.name]
        if not any("failure" in result for result in found):
            job = Job.of(what, model, device, entry.contender, entry.options, load, shared)
            found.append(run_child(job, deadline_s))
    return results


def summarize(
    what: str,
    model: str,
    device: str,
    results: dict[tuple[str, str], list[dict[str, Any]]],
    bandwidth: float | None = None,
) -> Iterator[Row]:
    about = {
        "what": what,
        "model": model,
        "device": device,
        **asdict(Origin.of("benchmarks.engine", LIBRARIES)),
    }
    for (load, contender), found in results.items():
        failure = next((result["failure"] for result in found if "failure" in result), "")
        if failure:
            yield Row(load=load, contender=contender, **blank(), failure=failure, **about)
            continue
        figures = [result["figures"] for result in found]
        stock = [result["figures"] for result in results.get((load, BASELINE), []) if "figures" in result]
        for figure in figures[0]:
            found_numbers = numbers(figure, figures, stock)
            reached = roofline(figure, found_numbers["wall"], found[0].get("step_bytes"), bandwidth)
            yield Row(load=load, contender=contender, **found_numbers, **reached, failure="", **about)


def blank() -> dict[str, Any]:
    names = ("speed_wall", "speed_cpu", "wall", "cpu", "wall_min", "wall_max")
    return {**dict.fromkeys((*names, *ROOFLINE)), "figure": "", "runs": 0}


def numbers(figure: str, figures: Sequence[Figures], stock: Sequence[Figures]) -> dict[str, Any]:
    """The columns of a row that are numbers."""
    wall, cpu = (middle(figure, figures, clock) for clock in (0, 1))
    walls = [found[figure][0] for found in figures]
    return {
        "figure": figure,
        "speed_wall": speed(figure, wall, middle(figure, stock, 0)),
        "speed_cpu": speed(figure, cpu, middle(figure, stock, 1)),
        "wall": rounded(wall),
        "cpu": rounded(cpu),
        "wall_min": rounded(min(walls)),
        "wall_max": rounded(max(walls)),
        "runs": len(figures),
    }


def roofline(figure: str, wall: float, step_bytes: float | None, bandwidth: float | None) -> dict[str, Any]:
    """The columns of a decode step that say how well it uses the memory; empty where that is not known."""
    if figure != DECODE_STEP or not step_bytes or not bandwidth:
        return dict.fromkeys(ROOFLINE)
    share = step_bytes / (wall / 1e3 * bandwidth)
    return dict(zip(ROOFLINE, map(rounded, (step_bytes / 1e6, bandwidth / 1e9, share)), strict=True))


def middle(figure: str, figures: Sequence[Figures], clock: int) -> float | None:
    values = [found[figure][clock] for found in figures if figure in found]
    return None if not values or None in values else statistics.median(values)


def speed(figure: str, value: float | None, stock: float | None) -> float | None:
    if not value or not stock or figure in WITHOUT_RATIO:
        return None
    return rounded(value / stock if figure in MORE_IS_BETTER else stock / value)


def rounded(value: float | None) -> float | None:
    return value if not value else round(value, 3 - math.floor(math.log10(abs(value))))  # four digits


def table_of(rows: Sequence[Row]) -> Table:
    first = rows[0]
    table = Table(
        title=f"{first.what}, Llama {first.model} on {first.device}, medians of {max(row.runs for row in rows)} runs, "
        f"{first.date}",
        caption=escape("\n".join(caption(rows))),
    )
    for column in COLUMNS:
        table.add_column(escape(column), justify="left" if column in ("load", "", "contender") else "right")
    figures = ["", *dict.fromkeys(row.figure for row in rows if row.figure)]
    loads = list(dict.fromkeys(row.load for row in rows))
    for row in sorted(rows, key=lambda row: (loads.index(row.load), figures.index(row.figure))):
        if row.failure:
            table.add_row(row.load, "failed", row.contender, *[""] * 6, escape(row.failure[:80]))
            continue
        measured = (row.speed_wall, row.speed_cpu, row.wall, row.cpu, row.step_mb, row.roofline)
        cells = (shown(value) for value in measured)
        spread = f"{shown(row.wall_min)} to {shown(row.wall_max)}"
        table.add_row(row.load, escape(row.figure), row.contender, *cells, spread)
    return table


def caption(rows: Sequence[Row]) -> Iterator[str]:
    first = rows[0]
    if bandwidth := next((row.bandwidth_gb_s for row in rows if row.bandwidth_gb_s), None):
        yield f"of the roofline: the share of {bandwidth:.1f} GB/s, the memory's bandwidth, at which a step reads"
    yield f"{first.hardware}; {first.versions}"
    yield first.command


def shown(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def plot(rows: Sequence[Row], path: Path) -> Path:
    """Bars of the wall clock's medians: a panel for each figure, a group for each load."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    first = rows[0]
    figures = list(dict.fromkeys(row.figure for row in rows if row.figure)) or [""]
    loads = list(dict.fromkeys(row.load for row in rows))
    contenders = list(dict.fromkeys(row.contender for row in rows if row.wall is not None))
    width = max(8.0, 1.2 * len(loads) + 5)
    drawing, axes = pyplot.subplots(len(figures), 1, figsize=(width, 3.6 * len(figures)), squeeze=False)
    for axis, figure in zip(axes[:, 0], figures, strict=True):
        bars(axis, [row for row in rows if row.figure == figure and row.wall is not None], loads, contenders)
        axis.set_ylabel(figure)
    title = f"{first.what}, Llama {first.model}, {first.device}, {first.date}\n{first.hardware}"
    drawing.suptitle(title, fontsize=9)
    drawing.tight_layout()
    drawing.savefig(path, dpi=120)
    pyplot.close(drawing)
    return path


def bars(axis: Any, rows: Sequence[Row], loads: Sequence[str], contenders: Sequence[str]) -> None:
    for number, contender in enumerate(contenders):
        own = [row for row in rows if row.contender == contender]
        places = [loads.index(row.load) + 0.8 * (number + 0.5) / len(contenders) - 0.4 for row in own]
        axis.bar(places, [row.wall for row in own], 0.8 / len(contenders), label=contender)
    walls = [row.wall for row in rows]
    if walls and max(walls) > 20 * min(walls) > 0:
        axis.set_yscale("log")
    axis.set_xticks(range(len(loads)), loads, rotation=20 if len(loads) > 3 else 0, fontsize=8)
    if contenders:
        axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))


def entries_of(what: str, named: Sequence[str] | None, device: str) -> list[Entry]:
    """The contenders that were named, else the usual ones that make sense here."""
    if named:
        return [Entry.parse(name) for name in named]
    entries = [Entry.parse(name) for name in DEFAULT_CONTENDERS[what]]
    missing = {name for name, module in OPTIONAL.items() if importlib.util.find_spec(module) is None}
    entries = [entry for entry in entries if entry.contender not in missing]
    return [entry for entry in entries if device == "cpu" or not needs_cpu(entry)]


def needs_cpu(entry: Entry) -> bool:
    return entry.contender == "openvino" or entry.name in CPU_SWITCHES


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=["40m"])
    parser.add_argument("--what", nargs="+", choices=LOADS, default=list(LOADS))
    parser.add_argument("--contenders", nargs="+", help="default: those that the measurement is about")
    parser.add_argument("--rows", nargs="+", type=int, help="of decode; default 1 8 16")
    parser.add_argument("--contexts", nargs="+", type=int, help="of decode; default 100 500 1500")
    parser.add_argument("--runs", type=int, default=3, help="fresh processes for each figure")
    parser.add_argument("--deadline", type=float, default=1800, help="seconds after which a process is killed")
    parser.add_argument("--quick", action="store_true", help="small loads, to see that everything runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of CSV and PNG")
    options = parser.parse_args()
    if options.device == "cpu" and (large := [name for name in options.models if SHAPES[name].cuda_only]):
        parser.error(f"too large for a CPU: {', '.join(large)}; add --device cuda")
    return options


def main() -> None:
    options = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that it ends its child
    sizes = Sizes(
        rows=options.rows or ([4] if options.quick else [1, 8, 16]),
        contexts=options.contexts or ([50] if options.quick else [100, 500, 1500]),
        quick=options.quick,
    )
    with tempfile.TemporaryDirectory() as folder:
        for what in options.what:
            bandwidth = measured_bandwidth(options.device, options.quick) if what == "decode" else None
            for model in options.models:
                report(list(rows_of(what, model, sizes, bandwidth, options, Path(folder))), options.out)


def rows_of(
    what: str, model: str, sizes: Sizes, bandwidth: float | None, options: argparse.Namespace, shared: Path
) -> Iterator[Row]:
    """Measure all contenders."""
    device = options.device
    entries, loads = entries_of(what, options.contenders, device), LOADS[what](sizes)
    found = measure(what, model, device, entries, loads, options.runs, options.deadline, shared)
    return summarize(what, model, device, found, bandwidth)


def report(rows: Sequence[Row], folder: Path) -> None:
    """Print and save."""
    first = rows[0]
    show(table_of(rows), width=160)
    stem = f"engine_{first.what}_{first.model}_{first.device}"
    print(f"saved {save(rows, folder / f'{stem}.csv')}")
    print(f"saved {plot(rows, folder / f'{stem}.png')}", flush=True)


if __name__ == "__main__":
    main()
