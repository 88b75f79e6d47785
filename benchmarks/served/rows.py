"""The rows of the servers' benchmark: medians over the turns, and what the baseline is to them."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from benchmarks.engine import rounded
from benchmarks.served.loads import NEW_TOKENS, ServedLoad
from benchmarks.servers import Turn
from mlflow_llm_plugins.loadtest import Distribution, LoadResult, Objective

Figures = Mapping[str, float | None]

MEASURED = (
    "output_tokens_per_second",
    "output_tokens_per_second_min",
    "output_tokens_per_second_max",
    "requests_per_second",
    "ttft_p50",
    "ttft_p99",
    "itl_p50",
    "itl_p99",
    "e2el_p50",
    "e2el_p99",
    "health_p50",
    "health_p99",
    "goodput",
    "peak_rss_mb",
    "prompt_tokens",
    "completion_tokens",
    "generator_cpu",
)
RATIOS = ("baseline_tokens_x", "baseline_ttft_x", "baseline_e2el_x")


@dataclass(frozen=True, slots=True)
class About:
    """What all rows of a table have in common."""

    model: str
    baseline: str
    objective: str
    hardware: str
    versions: str
    date: str
    command: str


@dataclass(frozen=True, slots=True)
class Row:
    """One contender at one load. Times are seconds; None is what was not measured."""

    model: str
    prompts: str
    load: str
    clients: int | None
    rate: float | None
    answers: str
    contender: str
    output_tokens_per_second: float | None
    output_tokens_per_second_min: float | None
    output_tokens_per_second_max: float | None
    requests_per_second: float | None
    ttft_p50: float | None  # time to first token
    ttft_p99: float | None
    itl_p50: float | None  # inter-token latency: all gaps between chunks, pooled
    itl_p99: float | None
    e2el_p50: float | None  # end-to-end latency
    e2el_p99: float | None
    health_p50: float | None  # until GET /health answers, while the load runs
    health_p99: float | None
    goodput: float | None  # requests a second that keep the objective
    peak_rss_mb: float | None  # of all its processes, over all loads of a turn
    prompt_tokens: float | None  # of a request, by the server's usage
    completion_tokens: float | None
    generator_cpu: float | None  # of a core, that the load generator took
    baseline_tokens_x: float | None  # the baseline has so many times its tokens a second
    baseline_ttft_x: float | None  # the baseline has its first token so many times sooner, p50
    baseline_e2el_x: float | None
    failed: int  # requests, of all runs
    runs: int
    failure: str
    baseline: str
    objective: str
    hardware: str
    versions: str
    date: str
    command: str


def rows_of(
    about: About, loads: Sequence[ServedLoad], turns: Mapping[str, Sequence[Turn]], objective: Objective
) -> Iterator[Row]:
    """A row for each contender and load that was measured, or failed to be.

    Args:
        about: For all rows.
        loads: In the order of the rows.
        turns: Contender -> its turns.
        objective: For the goodput.
    """
    for load in loads:
        found = {name: _medians(load, done, objective) for name, done in turns.items()}
        for name, done in turns.items():
            if found[name] or any(turn.failure and load in turn.task.loads for turn in done):
                yield _row(about, load, name, done, found[name], found.get(about.baseline, {}))


def _medians(load: ServedLoad, turns: Sequence[Turn], objective: Objective) -> Figures:
    """Empty where there is no result."""
    found = [figures_of(turn, load, objective) for turn in turns if load in turn.results]
    if not found:
        return {}
    medians = {name: _middle([figures[name] for figures in found]) for name in found[0]}
    speeds = [speed for figures in found if (speed := figures["output_tokens_per_second"]) is not None]
    spread = {f"output_tokens_per_second_{of.__name__}": of(speeds) if speeds else None for of in (min, max)}
    return {**medians, **spread}


def figures_of(turn: Turn, load: ServedLoad, objective: Objective) -> Figures:
    """The figures of one load in one turn."""
    result = turn.results[load]
    return {
        "output_tokens_per_second": result.output_tokens_per_second if result.succeeded else None,
        "requests_per_second": result.requests_per_second,
        **_percentiles("ttft", result.time_to_first_token),
        **_percentiles("itl", result.inter_token_latency),
        **_percentiles("e2el", result.end_to_end_latency),
        **_percentiles("health", turn.health.get(load)),
        "goodput": result.goodput(objective),
        "peak_rss_mb": turn.peak_bytes / 1e6,
        "prompt_tokens": _each(result.prompt_tokens, result),
        "completion_tokens": _each(result.completion_tokens, result),
        "generator_cpu": result.cpu_s / result.duration_s if result.duration_s and result.cpu_s else None,
    }


def _percentiles(name: str, found: Distribution | None) -> Figures:
    return {f"{name}_{rank}": getattr(found, rank, None) for rank in ("p50", "p99")}


def _each(tokens: int | None, result: LoadResult) -> float | None:
    return None if tokens is None or not result.succeeded else tokens / len(result.succeeded)


def _middle(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _row(about: About, load: ServedLoad, name: str, turns: Sequence[Turn], figures: Figures, baseline: Figures) -> Row:
    results = [turn.results[load] for turn in turns if load in turn.results]
    failures = sum((Counter(result.failures) for result in results), Counter[str]())
    measured: dict[str, Any] = {figure: rounded(figures.get(figure)) for figure in MEASURED}
    return Row(
        prompts=load.prompts,
        load=load.rhythm,
        clients=load.clients,
        rate=load.rate,
        answers=load.answers,
        contender=name,
        **measured,
        **_ratios(load, figures, baseline),
        failed=failures.total(),
        runs=len(results),
        failure="; ".join([*_failures(turns, failures), *_wrong_length(figures)]),
        **{field.name: getattr(about, field.name) for field in fields(About)},
    )


def _ratios(load: ServedLoad, figures: Figures, baseline: Figures) -> dict[str, Any]:
    """How many times better the baseline is; above 1 is in its favour. An open loop's throughput is its own rate."""
    its_speed = None if load.clients is None else baseline.get("output_tokens_per_second")
    pairs = (
        (its_speed, figures.get("output_tokens_per_second")),
        (figures.get("ttft_p50"), baseline.get("ttft_p50")),
        (figures.get("e2el_p50"), baseline.get("e2el_p50")),
    )
    ratios = (rounded(value / divisor) if value and divisor else None for value, divisor in pairs)
    return dict(zip(RATIOS, ratios, strict=True))


def _failures(turns: Sequence[Turn], failures: Mapping[str, int]) -> Iterator[str]:
    yield from dict.fromkeys(turn.failure for turn in turns if turn.failure)
    yield from (f"{count} x {kind}" for kind, count in failures.items())


def _wrong_length(figures: Figures) -> Iterator[str]:
    """Answers of another length are other work."""
    tokens = figures.get("completion_tokens")
    if figures.get("requests_per_second") and tokens != NEW_TOKENS:
        yield "answers without usage" if tokens is None else f"answers of {tokens:g} tokens instead of {NEW_TOKENS}"
