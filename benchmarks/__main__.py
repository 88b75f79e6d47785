"""All benchmarks, one after the other: a table and a file each, one MLflow experiment, and RESULTS.md.

    python -m benchmarks [--quick] [--only serve,engine] [--runs 3] [--models 40m] [--out benchmarks/results]

Each is a process of its own; one that fails does not stop the others, and the exit status tells of it. `--quick` is a
few minutes with a tiny model, to see that everything runs; without it all takes hours. Runs are logged to the
experiment `benchmarks` of the active tracking store, under a run of their own. At the end RESULTS.md beside the folder
of the files is written anew, of all files that are in it; that of `--quick` is not the one that counts.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks import import_cost, log_model
from benchmarks.engine import child_environment, kill_group
from benchmarks.results import write
from benchmarks.served.options import MODELS, listed, one_of, positive
from benchmarks.tracking import log_files, parent_run

DEADLINE_S = 6 * 3600.0
SKIPPED = "skipped"
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Benchmark:
    """How one is called from here."""

    output: str = "--out"
    quick: tuple[str, ...] = ("--quick",)
    runs: str | None = "--runs"  # None: it has no such option
    models: Callable[[Sequence[str]], list[str]] | None = None  # its arguments for the models
    logs_itself: bool = False  # to MLflow
    missing: Callable[[], str] = str  # why it cannot run here; empty: it can

    def arguments(self, options: argparse.Namespace) -> list[str]:
        folder = [] if options.out == RESULTS else [self.output, os.path.relpath(options.out)]
        given = [*folder, *(self.quick if options.quick else ())]
        if options.runs and self.runs and self.runs not in given:
            given += [self.runs, str(options.runs)]
        return [*given, *(self.models(options.models) if options.models and self.models else [])]


def _joined(models: Sequence[str]) -> list[str]:
    return ["--models", ",".join(models)]


BENCHMARKS = {
    "engine": Benchmark(
        quick=(
            *("--quick", "--models", "tiny", "--runs", "1", "--what", "decode", "throughput"),
            *("--contenders", "ours", "openvino", "stock", "generate"),
        ),
        models=lambda models: ["--models", *models],
    ),
    "serve": Benchmark("--output", models=_joined, logs_itself=True),
    "prefix": Benchmark(models=_joined),
    "quality": Benchmark(),
    "loading": Benchmark(models=_joined),
    "evaluation": Benchmark("--output", models=_joined, logs_itself=True),
    "relay": Benchmark(quick=("--quick", "--runs", "1")),
    "import_cost": Benchmark(quick=("--runs", "1"), runs=None, missing=import_cost.missing),
    "log_model": Benchmark(quick=("--size", "60m", "--runs", "1"), missing=log_model.missing),
}


def run(name: str, options: argparse.Namespace, environment: dict[str, str]) -> str:
    """Run one to its end; "" if it did well, else what happened."""
    benchmark = BENCHMARKS[name]
    if missing := benchmark.missing():
        return f"{SKIPPED}: {missing}"
    command = [sys.executable, "-m", f"benchmarks.{name}", *benchmark.arguments(options)]
    print(f"\n=== {name}", flush=True)
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        status = process.wait(DEADLINE_S)
    except subprocess.TimeoutExpired:
        return f"not finished after {DEADLINE_S:.0f} s"
    except BaseException:  # Ctrl-C: it ends its own children
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        raise
    finally:
        kill_group(process)
    return f"exit status {status}" if status else ""


def run_all(options: argparse.Namespace) -> dict[str, str]:
    """Name -> what happened to it; what it left is logged."""
    happened: dict[str, str] = {}
    with parent_run(sys.argv[1:]) as parent:
        environment = {**child_environment(), **parent}
        for name in options.only:
            started = time.time()
            happened[name] = run(name, options, environment)
            if not BENCHMARKS[name].logs_itself and not happened[name].startswith(SKIPPED):
                written = [path for path in options.out.glob(f"{name}*") if path.stat().st_mtime >= started]
                log_files(name, written, happened[name])
    return happened


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=listed(one_of(list(BENCHMARKS))), default=list(BENCHMARKS))
    parser.add_argument("--models", type=listed(one_of(MODELS)), help="of those that take several; default: their own")
    parser.add_argument("--runs", type=positive(int), help="of each figure; default: their own")
    parser.add_argument("--quick", action="store_true", help="little of all, to see that it runs")
    parser.add_argument("--out", type=Path, help="folder of CSV and PNG; default benchmarks/results")
    options = parser.parse_args()
    options.out = options.out or (RESULTS / "quick" if options.quick else RESULTS)
    return options


def main() -> int:
    """Run, report, and tell by the exit status whether all went well."""
    options = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    options.out.mkdir(parents=True, exist_ok=True)
    happened = run_all(options)
    print(f"\nwrote {write(options.out, options.out.parent / 'RESULTS.md')}")
    for name, what in happened.items():
        print(f"{name}: {what or 'done'}", file=sys.stderr if what else sys.stdout)
    return int(any(what and not what.startswith(SKIPPED) for what in happened.values()))


if __name__ == "__main__":
    sys.exit(main())
