"""What each way to store the weights costs in quality, beside its speed: on a tiny model that was really trained.

    python -m benchmarks.quality [--seconds 60] [--runs 3] [--out benchmarks/results]

The model is that of `examples/tiny_llm.py`, a Llama of a million parameters trained for `--seconds` on CPython's
documentation. Quality is over the topics that were held out from training, by the package's own metrics: perplexity as
a multiple of that of float32, mean Kullback-Leibler divergence from it in nats, and the share of places at which both
hold the same token for the most probable one. float32 is measured against itself.

Speed is tokens a second of 1 and of 16 greedy requests of 64 tokens at a time, behind prompts of the same texts. It
tells little of larger models, whose time goes into reading weights.

Recipes are the methods of `quantization`; "openvino-none" is the engine `openvino` on ordinary weights, with and
without float32 arithmetic and cache; int4 has groups of 128 or 32 weights. Each run is a fresh process, recipes take
turns, and figures are medians; those of quality are the same in each run.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from benchmarks.figures import Key, Result, report, rows_of
from benchmarks.report import Origin
from benchmarks.served.options import positive
from benchmarks.servers import ServerError
from benchmarks.servers.artifacts import export_cache
from benchmarks.servers.process import running

MODEL = "tiny_llm"
BASELINE = "float32"
LIBRARIES = ("mlflow-llm-plugins", "torch", "transformers", "bitsandbytes", "openvino", "openvino-genai", "nncf")
DEADLINE_S = 1800.0
QUICK_STEPS = 20
NOTES = "quality against float32 over the held-out texts: ratio of perplexities, nats, share of the same first choices"
_F32 = {"engine": "openvino", "inference_precision": "f32", "kv_cache_precision": "f32"}
_INT4 = {"quant_method": "openvino", "weight_format": "int4"}

RECIPES: Mapping[str, Mapping[str, Any]] = {  # arguments of save_model
    BASELINE: {},
    "openvino-none, f32": {"engine_config": _F32},
    "openvino-none": {"engine_config": {"engine": "openvino"}},
    "openvino-fp16": {"quantization": "openvino-fp16"},
    "openvino-int8": {"quantization": "openvino-int8"},
    "openvino-int4 g128": {"quantization": {**_INT4, "group_size": 128}},
    "openvino-int4 g32": {"quantization": {**_INT4, "group_size": 32}},
    "int8": {"quantization": "int8"},
    "nf4": {"quantization": "nf4"},
    "fp4": {"quantization": "fp4"},
}


def measure(runs: int, texts: int | None, training: list[str], folder: Path) -> dict[Key, list[Result]]:
    """One result a run; a recipe that failed once is not tried again."""
    checkpoint = folder / "checkpoint"
    train = [sys.executable, "-m", "examples.tiny_llm", str(checkpoint), *training]
    with running(train, folder / "training.log") as child:
        child.wait(DEADLINE_S)
    results: dict[Key, list[Result]] = defaultdict(list)
    for recipe in track(list(_turns(runs)), description="quality", console=Console(stderr=True)):
        found = results["", recipe]
        if not any(result.failure for result in found):
            found.append(_run(recipe, texts, folder))
    return results


def _turns(runs: int) -> Iterator[str]:
    """Reversed from run to run."""
    for run in range(runs):
        yield from reversed(RECIPES) if run % 2 else RECIPES


def _run(recipe: str, texts: int | None, folder: Path) -> Result:
    answer = folder / "answer.json"
    command = [sys.executable, "-m", "benchmarks.scored_recipe", recipe, str(folder), str(answer), str(texts or 0)]
    try:
        with running(command, folder / "recipe.log", export_cache(folder)) as child:
            child.wait(DEADLINE_S)
    except ServerError as error:
        return Result(failure=str(error))
    return Result(json.loads(answer.read_text(encoding="utf-8")))


def main() -> int:
    """Measure and report; the exit status tells whether all could be measured."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that it ends its children
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=positive(float), default=60.0, help="that the model is trained")
    parser.add_argument("--runs", type=positive(int), help="fresh processes for each figure; default 3")
    parser.add_argument("--quick", action="store_true", help="hardly trained, few texts, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of CSV and PNG")
    options = parser.parse_args()
    training = ["--steps", str(QUICK_STEPS)] if options.quick else ["--seconds", f"{options.seconds:g}"]
    with tempfile.TemporaryDirectory() as folder:
        runs = options.runs or (1 if options.quick else 3)
        results = measure(runs, 2 if options.quick else None, training, Path(folder))
    rows = list(rows_of(MODEL, results, lambda _: BASELINE, Origin.of("benchmarks.quality", LIBRARIES)))
    report(rows, "Quality and speed of the recipes on a trained tiny model", NOTES, options.out, f"quality_{MODEL}")
    return int(any(row.failure for row in rows))


if __name__ == "__main__":
    sys.exit(main())
