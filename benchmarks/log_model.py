"""Logging against stock MLflow, and what NF4 saves on disk and in memory.

    python -m benchmarks.log_model [--size 300m] [--runs 3] [--out benchmarks/results]

The package and torchvision, which the stock flavor needs, must be installed.

Logging: `quantized_llm.log_model` and `mlflow.transformers.log_model`, both at their defaults, on the same pipeline in
memory (float32, random weights). Each run is a fresh process; ours and theirs take turns; figures are medians.
The peak counts child processes too: the stock flavor starts one that loads the model to find requirements.

NF4: a bfloat16 checkpoint with a tied vocabulary of 32k tokens and random weights, saved with `quantization="nf4"`,
then loaded in a fresh process, which also reads a first prompt: until then weights are only mapped, not in memory.
Memory is resident set, sampled from outside every few milliseconds, above what the process had when it was ready:
model built, or libraries imported.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import psutil
from rich.progress import track
from rich.table import Table

from benchmarks.report import Origin, save, show

SAMPLE_EVERY_S = 0.005
CHILD_LIFETIME_S = 1800
VOCAB_SIZE = 32_000
# hidden, intermediate, layers, heads
SIZES = {"60m": (512, 1408, 13, 8), "300m": (1024, 2816, 21, 16)}
LIBRARIES = ("mlflow", "torch", "transformers", "bitsandbytes", "mlflow-llm-plugins", "torchvision")

BARS_ARE_FOR = "300m"
FASTER = 3.0  # our time may be this part of the stock flavor's
SMALLER = 0.40  # of the bfloat16 checkpoint
LOADED_IN = 2.5  # times the size of the artifact

# A child prepares itself, says "ready", waits for a line, does `action` and prints its seconds.
PRELUDE = """
import json, logging, sys, time
import mlflow, torch, transformers
from mlflow_llm_plugins import quantized_llm

def tokenizer():
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    text = Tokenizer(BPE(vocab={token: i for i, token in enumerate(["<|eos|>", *alphabet])}, merges=[]))
    text.pre_tokenizer, text.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=text, eos_token="<|eos|>", pad_token="<|eos|>")

def model(vocabulary, hidden, intermediate, layers, heads, dtype):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads, tie_word_embeddings=True,
        bos_token_id=0, eos_token_id=0, pad_token_id=0, max_position_embeddings=2048,
    )
    return transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))

arguments = json.loads(sys.argv[1])
"""
ANSWER = """
print("ready", flush=True)
sys.stdin.readline()
started = time.perf_counter()
action()
print(json.dumps(time.perf_counter() - started), flush=True)
"""
LOG = """
pipeline = transformers.pipeline(
    "text-generation", model=model(*arguments["sizes"], "float32"), tokenizer=tokenizer(), device="cpu"
)
flavor = {"ours": quantized_llm, "stock": mlflow.transformers}[arguments["side"]]
mlflow.MlflowClient().search_experiments()  # creates the database, which takes seconds
def action():
    flavor.log_model(pipeline, name="model")
"""
MAKE_CHECKPOINT = """
model(*arguments["sizes"], "bfloat16").save_pretrained(arguments["checkpoint"])
tokenizer().save_pretrained(arguments["checkpoint"])
def action():
    quantized_llm.save_model(arguments["checkpoint"], arguments["artifact"], quantization="nf4")
"""
LOAD = """
import bitsandbytes
def action():
    global loaded
    loaded = quantized_llm.load_model(arguments["artifact"], return_type="model")
    with torch.no_grad():
        loaded(torch.ones((1, 8), dtype=torch.long))
"""


@dataclass(frozen=True)
class Run:
    """One action of one process."""

    seconds: float
    peak_bytes: int  # of the process and its children, above what it had before


@dataclass(frozen=True)
class Row:
    what: str
    value: str
    compared_with: str
    ratio: float
    bar: str
    holds: bool | None  # None: the bar is for another size
    runs: int
    size: str
    hardware: str
    versions: str
    date: str
    command: str


def run_child(script: str, arguments: dict[str, object], folder: Path) -> Run:
    """Run an action in a fresh process, and watch its memory from here."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")},
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "HF_HUB_OFFLINE": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", f"{PRELUDE}\n{script}\n{ANSWER}", json.dumps(arguments)],
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=(folder / "stderr.txt").open("w"),
        text=True,
    )
    watchdog = threading.Timer(CHILD_LIFETIME_S, process.kill)
    watchdog.start()
    try:
        with process:
            if read_answer(process) != "ready":
                raise SystemExit(f"The child failed:\n{(folder / 'stderr.txt').read_text()}")
            with peak_memory(process.pid) as peak:
                print(file=process.stdin, flush=True)
                answer = read_answer(process)
            if not answer:
                raise SystemExit(f"The child failed:\n{(folder / 'stderr.txt').read_text()}")
            return Run(json.loads(answer), peak[0])
    finally:
        watchdog.cancel()


def read_answer(process: subprocess.Popen) -> str:
    """The next line that is ours; libraries print too."""
    for line in process.stdout:
        if line.strip() == "ready" or line[0].isdigit():
            return line.strip()
    return ""


@contextmanager
def peak_memory(pid: int) -> Iterator[list[int]]:
    """Keep the highest resident set of a process and its children, above that at the start, in a list of one."""
    process, done, peak = psutil.Process(pid), threading.Event(), [0]
    start = resident(process)

    def watch() -> None:
        while not done.wait(SAMPLE_EVERY_S):
            peak[0] = max(peak[0], resident(process) - start)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def resident(process: psutil.Process) -> int:
    total, command = process.memory_info().rss, process.cmdline()
    for child in process.children(recursive=True):
        try:
            if child.cmdline() != command:  # else it is between fork and exec, in its parent's pages
                total += child.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def race_logging(size: str, runs: int) -> Iterator[Row]:
    figures: dict[str, list[Run]] = defaultdict(list)
    for turn in track(range(2 * runs), description=f"logging {size}"):
        side = ("ours", "stock")[turn % 2]
        with tempfile.TemporaryDirectory() as folder:
            figures[side].append(run_child(LOG, {"side": side, "sizes": (VOCAB_SIZE, *SIZES[size])}, Path(folder)))
    ours, stock = (statistics.median(run.seconds for run in figures[side]) for side in ("ours", "stock"))
    yield row("log_model, seconds", f"{ours:.1f}", f"stock {stock:.1f}", ours / stock, 1 / FASTER, runs, size)
    ours, stock = (statistics.median(run.peak_bytes for run in figures[side]) for side in ("ours", "stock"))
    yield row("log_model, peak memory", megabytes(ours), f"stock {megabytes(stock)}", ours / stock, 1.0, runs, size)


def measure_nf4(size: str, runs: int) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arguments = {"sizes": (VOCAB_SIZE, *SIZES[size])}
        paths = {"checkpoint": str(folder / "checkpoint"), "artifact": str(folder / "artifact")}
        run_child(MAKE_CHECKPOINT, {**arguments, **paths}, folder)
        artifact, checkpoint = size_of(folder / "artifact"), size_of(folder / "checkpoint")
        loads = [run_child(LOAD, paths, folder).peak_bytes for _ in track(range(runs), description=f"loading {size}")]
    compared = f"checkpoint {megabytes(checkpoint)}"
    yield row("NF4 artifact", megabytes(artifact), compared, artifact / checkpoint, SMALLER, 1, size)
    peak = statistics.median(loads)
    compared = f"artifact {megabytes(artifact)}"
    yield row(
        "loading it and one prompt, peak memory", megabytes(peak), compared, peak / artifact, LOADED_IN, runs, size
    )


def row(what: str, value: str, compared_with: str, ratio: float, at_most: float, runs: int, size: str) -> Row:
    return Row(
        what=what,
        value=value,
        compared_with=compared_with,
        ratio=round(ratio, 4),
        bar=f"at most {at_most:.3g}",
        holds=ratio <= at_most if size == BARS_ARE_FOR else None,
        runs=runs,
        size=size,
        **asdict(Origin.of("benchmarks.log_model", LIBRARIES)),
    )


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def megabytes(size: float) -> str:
    return f"{size / 1e6:.0f} MB"


def table_of(rows: list[Row]) -> Table:
    table = Table(title=f"Llama {rows[0].size}, {rows[0].date}", caption=f"{rows[0].hardware}; {rows[0].versions}")
    for column in ("", "ours", "compared with", "ratio", "bar", "", "runs"):
        table.add_column(column, justify="right" if column in ("ours", "ratio", "runs") else "left")
    for found in rows:
        verdict = {True: "holds", False: "missed", None: f"for {BARS_ARE_FOR}"}[found.holds]
        table.add_row(
            found.what, found.value, found.compared_with, f"{found.ratio:.3f}", found.bar, verdict, str(found.runs)
        )
    return table


def missing() -> str:
    """Why this cannot be measured here; empty: it can."""
    return "" if find_spec("torchvision") else "The stock flavor needs torchvision: pip install torchvision"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="300m", help="parameters of the model")
    parser.add_argument("--runs", type=int, default=3, help="fresh processes for each figure")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the CSV")
    options = parser.parse_args()
    if reason := missing():
        raise SystemExit(reason)
    rows = [*measure_nf4(options.size, options.runs), *race_logging(options.size, options.runs)]
    show(table_of(rows), width=110)
    print(f"saved {save(rows, options.out / 'log_model.csv')}")


if __name__ == "__main__":
    main()
