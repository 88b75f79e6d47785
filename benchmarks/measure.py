"""One contender on one load, in this process: `python -m benchmarks.measure JOB RESULT`, both JSON files.

The result is {"figures": {name: [wall, CPU]}, "step_bytes": what a step reads or null}, or {"failure": why}. Run by
`benchmarks.engine`.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.contenders import CONTENDERS, Contender, Task, Tick, Trace
from benchmarks.loads import Load

Figures = dict[str, Sequence[float | None]]  # name -> wall, CPU; None: not measured on this clock

DECODE_STEP = "decode step [ms]"
_GENERATION = "mlflow_llm_plugins.generation"
_ANOTHER_SEED = 1
_SPAN = 4  # steps


@dataclass(frozen=True)
class Job:
    what: str
    model: str
    device: str
    contender: str  # a key of CONTENDERS
    options: dict[str, Any]
    load: dict[str, Any]
    shared: str  # folder

    @classmethod
    def of(
        cls, what: str, model: str, device: str, contender: str, options: dict[str, Any], load: Load, shared: Path
    ) -> Job:
        return cls(what, model, device, contender, options, asdict(load), str(shared))


def perform(job: Job, folder: Path) -> dict[str, Any]:
    """Open the contender, warm it up, and measure; the result."""
    load = Load(**{**job.load, "lengths": tuple(map(tuple, job.load["lengths"]))})
    task = Task(job.model, job.device, load, job.options, folder, Path(job.shared))
    times_picks = job.contender == "ours" and job.what in PICKING
    with timed_picks() if times_picks else nullcontext([]) as picks:
        contender = CONTENDERS[job.contender](task)
        try:
            warm_up(contender, load, task.shape.vocabulary)
            trace = contender.run(load, load.prompts(task.shape.vocabulary), watched(job.what, load))
        finally:
            contender.close()
    figures = {**MEASUREMENTS[job.what](load, trace), **(picking(load, trace, picks) if times_picks else {})}
    reads = contender.reads if job.what == "decode" else None
    return {"figures": figures, "step_bytes": reads and reads.of_step(load)}


def warm_up(contender: Contender, load: Load, vocabulary: int) -> None:
    """Two short requests of the same kind."""
    short = replace(load, lengths=((16, 4),) * 2, last_is_late=False)
    contender.run(short, short.prompts(vocabulary, seed=_ANOTHER_SEED), [])


def watched(what: str, load: Load) -> Sequence[int]:
    """The requests whose tokens are timed: all, or the last one, which is the last to decode."""
    if what == "interference":
        return range(len(load.lengths))
    return [] if what in ("prefill", "throughput") else [len(load.lengths) - 1]


def all_decode(trace: Trace) -> list[Tick]:
    """The last request's tokens, up to the end of the first request that ends."""
    first_end = min(end.wall for end in trace.ends if end is not None)
    return [tick for tick in trace.tokens[-1] if tick.wall <= first_end]


def decode_step(load: Load, trace: Trace) -> Figures:
    return {DECODE_STEP: median_step(all_decode(trace))}


def median_step(ticks: Sequence[Tick]) -> list[float]:
    """Milliseconds a step: the median of spans of some steps, as a reader may learn of a token a little late."""
    spans = list(zip(ticks, ticks[_SPAN:], strict=False))
    if len(spans) < _SPAN:
        raise RuntimeError(f"all rows decode in {len(ticks)} steps only")
    return [
        1e3 * statistics.median(after[clock] - before[clock] for before, after in spans) / _SPAN for clock in (0, 1)
    ]


def seconds(load: Load, trace: Trace) -> Figures:
    return {"all requests [s]": elapsed(trace)}


def tokens_a_second(load: Load, trace: Trace) -> Figures:
    return {"tokens/s": [load.new_tokens / time for time in elapsed(trace)]}


def elapsed(trace: Trace) -> list[float]:
    ends = [end for end in trace.ends if end is not None]
    return [max(end[clock] for end in ends) - trace.started[clock] for clock in (0, 1)]


def gaps(load: Load, trace: Trace) -> Figures:
    """How long the streams stand still while the late prompt is read, and how long it waits for its first token."""
    assert trace.arrived is not None
    arrived, first = trace.arrived.wall, trace.tokens[-1][0].wall
    streams = [[tick.wall for tick in ticks] for ticks in trace.tokens[:-1]]
    during = [
        after - before
        for walls in streams
        for before, after in itertools.pairwise(walls)
        if after > arrived and before < first
    ]
    quiet = [tick for tick in trace.tokens[0] if tick.wall <= arrived]
    return {
        "longest gap [ms]": [1e3 * max(during), None],
        "first token of the late prompt [ms]": [1e3 * (first - arrived), None],
        "step before it came [ms]": median_step(quiet),
    }


@dataclass(frozen=True)
class Pick:
    started: Tick
    ended: Tick


@contextmanager
def timed_picks() -> Iterator[list[Pick]]:
    """Time each call of `pick`, under whatever module of the engine looks it up."""
    from mlflow_llm_plugins.generation import transformers_engine  # noqa: F401 - loads what picks
    from mlflow_llm_plugins.generation.sampling import plan

    picks: list[Pick] = []
    original = plan.pick

    def timed(logits: Any, *arguments: Any, **keywords: Any) -> Any:
        synchronize(logits)  # the forward pass is none of its business
        started = Tick.now()
        tokens = original(logits, *arguments, **keywords)
        synchronize(logits)
        picks.append(Pick(started, Tick.now()))
        return tokens

    modules = [
        module
        for name, module in list(sys.modules.items())
        if name.startswith(_GENERATION) and getattr(module, "pick", None) is original
    ]
    for module in modules:
        module.pick = timed
    try:
        yield picks
    finally:
        for module in modules:
            module.pick = original


def synchronize(tensor: Any) -> None:
    if tensor.is_cuda:
        import torch

        torch.cuda.synchronize(tensor.device)


def picking(load: Load, trace: Trace, picks: Sequence[Pick]) -> Figures:
    """Median time of picking all rows' tokens, and its share of the decode step."""
    ticks = all_decode(trace)
    inside = [pick for pick in picks if ticks[0].wall < pick.started.wall and pick.ended.wall <= ticks[-1].wall]
    if not inside:
        raise RuntimeError("the engine does not pick through `pick` of sampling, so picking cannot be timed")
    pick, step = median_pick(inside), median_step(ticks)
    return {"picking [ms]": pick, "picking, share of the step": [pick[0] / step[0], pick[1] / step[1]]}


def median_pick(picks: Sequence[Pick]) -> list[float]:
    return [1e3 * statistics.median(pick.ended[clock] - pick.started[clock] for pick in picks) for clock in (0, 1)]


PICKING = ("sampling", "grammar")
MEASUREMENTS: dict[str, Callable[[Load, Trace], Figures]] = {
    "decode": decode_step,
    "prefill": seconds,
    "throughput": tokens_a_second,
    "sampling": decode_step,
    "grammar": decode_step,
    "interference": gaps,
}


def main() -> None:
    job_file, result_file = map(Path, sys.argv[1:])
    job = Job(**json.loads(job_file.read_text(encoding="utf-8")))
    try:
        result = perform(job, result_file.parent)
    except Exception as error:  # a contender that fails is a row of the table, whatever it raises
        result = {"failure": f"{type(error).__name__}: {error}"}
    result_file.write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
