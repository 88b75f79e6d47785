"""Our served model against stock `mlflow models serve` and `transformers serve`, on the same weights, over HTTP.

    python -m benchmarks.serve [--models 40m] [--contenders ours,stock] [--clients 1,16] [--prompts short,500] ...

stock                 an `mlflow.transformers` model under stock `mlflow models serve`, without this package's routes
transformers-serve    `transformers serve --continuous-batching` with a small cache, see --transformers-serve
vllm                  `vllm serve` in float32, where it is installed, see --vllm
llama-cpp             llama-cpp-python's server on a GGUF file in Q8_0, where it and `gguf` are installed
ours                  `quantized_llm` under `mlflow models serve`, with the settings of a user who sets none
ours-nf4, ours-int8   the same with quantized weights
ours-openvino         the same weights as `ours`, logged with engine_config={"engine": "openvino"}
ours-openvino-int8    logged with quantization="openvino-int8"; so is ours-openvino-int4
engine                the engine of `ours` in process, without HTTP: what serving costs
engine-openvino-int8  the same of `ours-openvino-int8`
genai-int8            OpenVINO GenAI's own pipeline on the model of `ours-openvino-int8`: added to, stepped and read by
                      one thread, without our engine and without HTTP

The weights are random, built on the spot and the same for all, but quantized where the name says so. Contenders take
turns, on fresh processes each; figures are medians of `--runs` turns. A turn begins with a few requests that are not
measured. Each of `--clients` is a closed loop; after them comes an open one, `--rate` requests a second that arrive
like a Poisson process, whether the server keeps up or not; --rate 0 leaves it out. The generator is
`mlflow_llm_plugins.loadtest`, on the same machine, which should have nothing else to do. Meanwhile a thread beside it
asks our servers GET /health, 20 times a second.

A request is a chat of random words of the vocabulary, a token each: 40 for `short`, the same behind a system prompt of
200 that all share for `shared`, else as many as make a prompt of so many tokens with the chat template's. Every load
has prompts of its own, the same for all contenders. Answers have
32 tokens everywhere: no end token can be the best one (servers that know `ignore_eos` get it as well), and a row whose
server counts otherwise says so. All answers are greedy, by the model's generation_config.

Ratios are to --baseline: how many times better that one is. Default `ours`.

The figures are printed, saved as CSV and PNG, and logged to the active MLflow tracking store.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track

from benchmarks.report import Origin, save, show
from benchmarks.served.loads import ServedLoad, loads_of
from benchmarks.served.options import parse_arguments
from benchmarks.served.plots import plot
from benchmarks.served.rows import About, Row, rows_of
from benchmarks.served.table import tables_of
from benchmarks.served.tracking import log_rows
from benchmarks.servers import Contender, ServerError, Task, Turn, contenders
from benchmarks.servers.process import running

LIBRARIES = (
    *("mlflow-llm-plugins", "mlflow", "torch", "transformers", "bitsandbytes", "openvino", "openvino-genai", "nncf"),
    *("llama-cpp-python", "fastapi", "uvicorn"),
)
SAVING_S = 900.0
INTERRUPTED = 128 + signal.SIGINT  # exit status, as shells have it
WIDTH = 185
SETTINGS = ("contenders", "baseline", "clients", "prompts", "answers", "rate", "runs")


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
    with running(command, task.logs / f"save_{name}.log", task.environment) as child:
        child.wait(SAVING_S)


def about(model: str, options: argparse.Namespace, chosen: Mapping[str, Contender]) -> About:
    own = [f"{name}: {version}" for name, each in chosen.items() if (version := each.versions())]
    origin = Origin.of("benchmarks.serve", LIBRARIES)
    return About(
        model=model,
        baseline=options.baseline,
        objective=options.goodput,
        hardware=origin.hardware,
        versions=", ".join([origin.versions, *own]),
        date=origin.date,
        command=origin.command,
    )


def report(rows: Sequence[Row], options: argparse.Namespace) -> None:
    """Print, save and log the rows of one model."""
    for table in tables_of(rows):
        show(table, width=WIDTH)
    stem = "_".join(filter(None, ("serve", rows[0].model, options.label)))
    files = [save(rows, options.output / f"{stem}.csv"), *plot(rows, options.output, stem)]
    for file in files:
        print(f"saved {file}", flush=True)
    settings = {name: getattr(options, name) for name in SETTINGS}
    print(f"logged the MLflow run {log_rows(rows, settings, files)}", flush=True)


def main() -> int:
    """Measure and report; the exit status."""
    options = parse_arguments(__doc__)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that it ends its children
    available = contenders(options.transformers_serve, options.vllm)
    chosen = {name: available[name] for name in options.contenders}
    loads = list(loads_of(options.prompts, options.clients, options.rate or None, options.requests, options.answers))
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
