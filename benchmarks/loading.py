"""From the start of a process to a model that is ready, and the memory that this takes, for each engine.

    python -m benchmarks.loading [--models 40m,300m] [--runs 3] [--out benchmarks/results]

transformers   a model of the flavor `quantized_llm` with ordinary weights in float32
openvino       the same with the engine `openvino`, whose export is in the cache already
openvino-int8  logged with quantization="openvino-int8"

served: `mlflow models serve` until GET /ready answers 200, then one request of 32 tokens. loaded: a Python process
that imports MLflow, loads the model with `mlflow.pyfunc.load_model` and answers one token. Peak RSS is that of all
processes together, sampled four times a second, until the answer is there.

Each run is a fresh process, contenders take turns, figures are medians. Whether files are in the system's cache is not
controlled: it was after the first run, so this is loading from memory and not from a disk.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import track

from benchmarks.figures import Key, Result, report, rows_of
from benchmarks.report import Origin
from benchmarks.serve import save_artifact
from benchmarks.served.loads import NEW_TOKENS, SHORT, ServedLoad
from benchmarks.served.options import MODELS, listed, one_of
from benchmarks.servers import ServerError, Task
from benchmarks.servers.http_server import Address
from benchmarks.servers.mlflow_models import serve
from benchmarks.servers.process import free_port, running, wait_until_ready
from mlflow_llm_plugins.loadtest import Load, Target, run_load
from mlflow_llm_plugins.mlflow_hooks import SWITCH

BASELINE = "transformers"
ARTIFACTS = {BASELINE: "ours", "openvino": "ours-openvino", "openvino-int8": "ours-openvino-int8"}
LIBRARIES = ("mlflow-llm-plugins", "mlflow", "torch", "transformers", "openvino", "openvino-genai")
LOOK_EVERY_S = 0.02
CHILD_S = 300.0
NOTES = "RSS is the peak of all processes together, until the first answer; files are in the system's cache"


def served(artifact: str, task: Task) -> Result:
    """Start a server and ask it once."""
    address = Address(task.artifacts / artifact, free_port(), rows=1, longest=0)
    url = f"http://127.0.0.1:{address.port}"
    started = time.perf_counter()
    with running(serve(address), task.logs / f"served-{artifact}.log", {**task.environment, SWITCH: "1"}) as child:
        wait_until_ready(child, url + "/ready", LOOK_EVERY_S)
        ready = time.perf_counter() - started
        [chat] = task.wording.warm_up(SHORT, 1)
        load = Load(clients=1, requests=1, max_tokens=NEW_TOKENS)
        answered = run_load(Target(url=url), load, [{"messages": chat}])
        if answered.failures:
            raise ServerError(f"the first request failed: {answered.failures}")
        figures = {"start to ready [s]": ready, "first answer [s]": answered.duration_s}
    return Result({**figures, "peak RSS [MB]": child.peak_bytes / 1e6})


def loaded(artifact: str, task: Task) -> Result:
    """Load it in a Python process."""
    answer = task.logs / "loaded.json"
    command = [sys.executable, "-m", "benchmarks.loaded", str(task.artifacts / artifact), str(answer)]
    with running(command, task.logs / f"loaded-{artifact}.log", task.environment) as child:
        child.wait(CHILD_S)
    return Result({**json.loads(answer.read_text(encoding="utf-8")), "peak RSS [MB]": child.peak_bytes / 1e6})


LOADS: dict[str, Callable[[str, Task], Result]] = {"served": served, "loaded": loaded}


def measure(model: str, runs: int, folder: Path) -> dict[Key, list[Result]]:
    """One result a run; a contender that failed once is not asked again."""
    load = ServedLoad(SHORT, "streams", 1, clients=1)
    task = Task(folder / "artifacts", folder / "logs", (load,))
    results: dict[Key, list[Result]] = defaultdict(list)
    for load, contender in track(list(_turns(runs)), description=f"loading {model}", console=Console(stderr=True)):
        found = results[load, contender]
        if not any(result.failure for result in found):
            found.append(_run(load, ARTIFACTS[contender], model, task))
    return results


def _turns(runs: int) -> Iterator[Key]:
    """Reversed from run to run."""
    for run in range(runs):
        keys = [(load, contender) for contender in ARTIFACTS for load in LOADS]
        yield from reversed(keys) if run % 2 else keys


def _run(load: str, artifact: str, model: str, task: Task) -> Result:
    try:
        save_artifact(artifact, model, task)
        return LOADS[load](artifact, task)
    except ServerError as error:
        return Result(failure=str(error))


def main() -> int:
    """Measure and report; the exit status tells whether all could be measured."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that it ends its children
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=listed(one_of(MODELS)), help=f"of {', '.join(MODELS)}; default 40m,300m")
    parser.add_argument("--runs", type=int, help="fresh processes for each figure; default 3")
    parser.add_argument("--quick", action="store_true", help="a tiny model, one run, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of CSV and PNG")
    options = parser.parse_args()
    failed = False
    for model in options.models or (["tiny"] if options.quick else ["40m", "300m"]):
        with tempfile.TemporaryDirectory() as folder:
            results = measure(model, options.runs or (1 if options.quick else 3), Path(folder))
        origin = Origin.of("benchmarks.loading", LIBRARIES)
        rows = list(rows_of(model, results, lambda _: BASELINE, origin))
        report(rows, f"Loading Llama {model}", NOTES, options.out, f"loading_{model}")
        failed = failed or any(row.failure for row in rows)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
