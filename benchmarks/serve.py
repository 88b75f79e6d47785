"""Our served model against stock `mlflow models serve` and `transformers serve`, on the same weights, over HTTP.

    python -m benchmarks.serve [--models 40m] [--contenders ours,stock] [--clients 1,16] [--prompts short,500] ...

stock               an `mlflow.transformers` model under stock `mlflow models serve`, without this package's routes
transformers-serve  `transformers serve --continuous-batching` with a small cache, see --transformers-serve
ours                `quantized_llm` under `mlflow models serve`, with the settings of a user who sets none
ours-nf4, ours-int8 the same with quantized weights
engine              the engine of `ours` in process, without HTTP: what serving costs

The weights are random, built on the spot and the same for all, but quantized where the name says so. Contenders take
turns, on fresh processes each; figures are medians of `--runs` turns. A turn begins with a few requests that are not
measured. Each of `--clients` is a closed loop; after them comes an open one, `--rate` requests a second that arrive
like a Poisson process, whether the server keeps up or not. The generator is `mlflow_llm_plugins.loadtest`, on the same
machine, which should have nothing else to do.

A request is a chat of random words of the vocabulary, a token each: 40 for `short`, else as many as make a prompt of
so many tokens with the chat template's. Every load has prompts of its own, the same for all contenders. Answers have
32 tokens everywhere: no end token can be the best one (servers that know `ignore_eos` get it as well), and a row whose
server counts otherwise says so. All answers are greedy, by the model's generation_config.

The figures are printed, saved as CSV and PNG, and logged to the active MLflow tracking store.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

from rich.console import Console
from rich.progress import track

from benchmarks.report import hardware, save, show, versions
from benchmarks.served.loads import ServedLoad, loads_of
from benchmarks.served.options import parse_arguments
from benchmarks.served.plots import plot
from benchmarks.served.rows import About, Row, rows_of
from benchmarks.served.table import tables_of
from benchmarks.served.tracking import log_run
from benchmarks.servers import Contender, ServerError, Task, Turn, contenders
from benchmarks.servers.process import running

LIBRARIES = ("mlflow-llm-plugins", "mlflow", "torch", "transformers", "bitsandbytes", "fastapi", "uvicorn")
SAVING_S = 900.0
INTERRUPTED = 128 + signal.SIGINT  # exit status, as shells have it
WIDTH = 185
SETTINGS = ("contenders", "clients", "prompts", "rate", "runs")


def planned_turns(
    chosen: Mapping[str, Contender], loads: Sequence[ServedLoad], runs: int, folder: Path
) -> list[tuple[str, Turn]]:
    """The turns to take, in their order, which is reversed from run to run.

    Args:
        chosen: Name -> contender.
        loads: Each contender gets those that it can answer.
        runs: Turns of each.
        folder: For artifacts and logs.
    """
    tasks = {
        name: Task(folder / "artifacts", folder / "logs", tuple(load for load in loads if load.answers in own.answers))
        for name, own in chosen.items()
    }
    order = [name for run in range(runs) for name in (reversed(tasks) if run % 2 else tasks)]
    return [(name, Turn(tasks[name])) for name in order]


def take_turns(chosen: Mapping[str, Contender], model: str, turns: Sequence[tuple[str, Turn]]) -> bool:
    """Fill the turns; a contender that failed once is not asked again. False: Ctrl-C ended it early."""
    failed: set[str] = set()
    try:
        for name, turn in track(turns, description=f"serve {model}", console=Console(stderr=True)):
            if name not in failed:
                take_turn(chosen[name], model, turn)
                failed |= {name} if turn.failure else set()
    except KeyboardInterrupt:
        print("interrupted; what was measured so far:", file=sys.stderr)
        return False
    return True


def take_turn(contender: Contender, model: str, turn: Turn) -> None:
    """Fill the turn; what cannot be measured is its failure."""
    turn.failure = contender.missing()
    if turn.failure:
        return
    try:
        save_artifact(contender.artifact, model, turn.task)
        contender.run(turn)
    except ServerError as error:
        turn.failure = str(error)


def save_artifact(name: str, model: str, task: Task) -> None:
    """Write it in a process of its own, once for all turns."""
    if (task.artifacts / name).exists():
        return
    for folder in (task.artifacts, task.logs):
        folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "benchmarks.servers.artifacts", name, model, str(task.artifacts)]
    with running(command, task.logs / f"save_{name}.log") as child:
        child.wait(SAVING_S)


def about(model: str, options: argparse.Namespace, chosen: Mapping[str, Contender]) -> About:
    own = [f"{name}: transformers {version}" for name, each in chosen.items() if (version := each.versions())]
    return About(
        model=model,
        objective=options.goodput,
        hardware=hardware(),
        versions=", ".join([versions(*LIBRARIES), *own]),
        date=date.today().isoformat(),
        command=shlex.join(["python", "-m", "benchmarks.serve", *sys.argv[1:]]),
    )


def report(rows: Sequence[Row], options: argparse.Namespace) -> None:
    """Print, save and log the rows of one model."""
    for table in tables_of(rows):
        show(table, width=WIDTH)
    stem = f"serve_{rows[0].model}"
    files = [save(rows, options.output / f"{stem}.csv"), *plot(rows, options.output, stem)]
    for file in files:
        print(f"saved {file}", flush=True)
    settings = {name: getattr(options, name) for name in SETTINGS}
    print(f"logged the MLflow run {log_run(rows, settings, files)}", flush=True)


def main() -> int:
    """Measure and report; the exit status."""
    options = parse_arguments(__doc__)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that it ends its children
    available = contenders(options.transformers_serve)
    chosen = {name: available[name] for name in options.contenders}
    loads = list(loads_of(options.prompts, options.clients, options.rate, options.requests))
    for model in options.models:
        with tempfile.TemporaryDirectory() as folder:
            turns = planned_turns(chosen, loads, options.runs, Path(folder))
            is_whole = take_turns(chosen, model, turns)
        of_each = {name: [turn for whose, turn in turns if whose == name] for name in chosen}
        if rows := list(rows_of(about(model, options, chosen), loads, of_each, options.objective)):
            report(rows, options)
        if not is_whole:
            return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
