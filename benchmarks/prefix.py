"""What it is worth that prompts which begin alike share the cache of their beginning: with and without, over HTTP.

    python -m benchmarks.prefix [--models 40m] [--contenders ours,ours-openvino-int8] [--clients 16] [--runs 3]

Every request has the same system prompt of 200 tokens, and behind it 40 random words of its own; the answer has 32
tokens, streamed. The same server is asked with its defaults and with prefix_caching=false, which take turns on fresh
processes each; before anything is measured, four other requests have the system prompt, too. Contenders are those of
`benchmarks.serve`, and ratios are times the tokens a second of the same server without prefix caching.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.figures import Key, Result, report, rows_of
from benchmarks.report import Origin
from benchmarks.serve import INTERRUPTED, planned_turns, take_turns
from benchmarks.served.loads import SHARED, ServedLoad, loads_of
from benchmarks.served.options import MODELS, listed, one_of, positive
from benchmarks.servers import Turn
from benchmarks.servers.artifacts import UNCACHED
from benchmarks.servers.mlflow_models import ours

CONTENDERS = ("ours", "ours-openvino", "ours-openvino-int8")
USUAL = ("ours", "ours-openvino-int8")
LIBRARIES = ("mlflow-llm-plugins", "mlflow", "torch", "transformers", "openvino", "openvino-genai")
NOTES = "times the same server without prefix caching; first token: p50"


def results_of(turns: Sequence[tuple[str, Turn]], loads: Sequence[ServedLoad]) -> dict[Key, list[Result]]:
    """By load and contender."""
    results: dict[Key, list[Result]] = {}
    for name, turn in turns:
        for load in loads:
            results.setdefault((load.rhythm, name), []).extend(_results(turn, load))
    return results


def _results(turn: Turn, load: ServedLoad) -> Iterator[Result]:
    if turn.failure:
        yield Result(failure=turn.failure)
    elif load in turn.results:
        found = turn.results[load]
        if found.failures:
            yield Result(failure=f"requests failed: {dict(found.failures)}")
            return
        first, speed = found.time_to_first_token, found.output_tokens_per_second
        assert first is not None  # streams of a server that counts
        assert speed is not None
        yield Result({"tokens/s": speed, "first token [ms]": first.p50 * 1e3})


def baseline_of(contender: str) -> str:
    """The same server without prefix caching."""
    return contender.removesuffix(UNCACHED) + UNCACHED


def measure(model: str, options: argparse.Namespace) -> tuple[Mapping[Key, list[Result]], bool]:
    """The results, and whether they are whole."""
    names = [name for own in options.contenders for name in (own, baseline_of(own))]
    chosen = {name: ours(name) for name in names}
    loads = list(loads_of([SHARED], options.clients, None, options.requests, ["streams"]))
    with tempfile.TemporaryDirectory() as folder:
        turns = planned_turns(chosen, loads, options.runs, Path(folder))
        is_whole = take_turns(chosen, model, turns)
    return results_of(turns, loads), is_whole


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=listed(one_of(MODELS)), help=f"of {', '.join(MODELS)}; default 40m")
    parser.add_argument("--contenders", type=listed(one_of(CONTENDERS)), default=list(USUAL))
    parser.add_argument("--clients", type=listed(positive(int)), help="of the closed loops; default 16")
    parser.add_argument("--requests", type=positive(int), help="of each load; default 4 a client, at least 16")
    parser.add_argument("--runs", type=positive(int), help="turns of each; default 3")
    parser.add_argument("--quick", action="store_true", help="little of all, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of CSV and PNG")
    options = parser.parse_args()
    options.models = options.models or (["tiny"] if options.quick else ["40m"])
    options.clients = options.clients or ([2] if options.quick else [16])
    options.runs = options.runs or (1 if options.quick else 3)
    options.requests = options.requests or (4 if options.quick else None)
    return options


def main() -> int:
    """Measure and report; the exit status tells whether all could be measured."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that it ends its children
    options = parse_arguments()
    failed = False
    for model in options.models:
        results, is_whole = measure(model, options)
        rows = list(rows_of(model, results, baseline_of, Origin.of("benchmarks.prefix", LIBRARIES)))
        if rows:
            report(rows, f"Shared system prompt, Llama {model}", NOTES, options.out, f"prefix_{model}")
        failed = failed or any(row.failure for row in rows)
        if not is_whole:
            return INTERRUPTED
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
