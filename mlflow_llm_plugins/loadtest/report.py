"""A load's figures for people, as tables, and for programs, as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table

import mlflow_llm_plugins
from mlflow_llm_plugins.hardware import probe
from mlflow_llm_plugins.loadtest.results import Distribution, LoadResult
from mlflow_llm_plugins.loadtest.settings import Objective

LATENCIES = {
    "time_to_first_token": "time to first token",
    "inter_token_latency": "inter-token latency, all gaps pooled",
    "time_per_output_token": "time per output token, one mean a request",
    "end_to_end_latency": "end-to-end latency",
}
_OF_WHOLE_ANSWERS = "end_to_end_latency"
FIGURES = (
    "duration_s",
    "requests_per_second",
    "output_tokens_per_second",
    "prompt_tokens",
    "completion_tokens",
    "without_usage",
    "latest_s",
    "cpu_s",
)


def tables_of(result: LoadResult, objective: Objective | None = None) -> Group:
    """All figures but the single requests, for rich to print."""
    return Group(_throughput(result, objective), _latencies(result))


def as_dict(result: LoadResult, objective: Objective | None = None) -> dict[str, Any]:
    """All figures and every request, ready for JSON; times are seconds, null is what was not measured."""
    limits = {} if objective is None else objective.limits()
    goodput = None if objective is None else result.goodput(objective)
    return {
        "version": mlflow_llm_plugins.__version__,
        "date": result.date,
        "machine": machine(),
        "target": result.target.model_dump(),
        "load": result.load.model_dump(),
        "interrupted": result.interrupted,
        "succeeded": len(result.succeeded),
        "failures": result.failures,
        "goodput": {"limits": limits, "requests_per_second": goodput},
        **{name: getattr(result, name) for name in FIGURES},
        **{name: _plain(getattr(result, name)) for name in LATENCIES},
        "requests": [asdict(request) for request in result.requests],
    }


def save(result: LoadResult, path: Path, objective: Objective | None = None) -> None:
    """Write `as_dict` as JSON."""
    path.write_text(json.dumps(as_dict(result, objective), indent=1) + "\n", encoding="utf-8")


def machine() -> str:
    """The machine that the generator runs on, as far as this process may use it."""
    found = probe()
    memory = f"{found.memory.total_bytes / 2**30:.0f} GiB"
    return ", ".join([f"{found.cpu.cores} x {found.cpu.model}", memory, *(gpu.name for gpu in found.accelerators)])


def _throughput(result: LoadResult, objective: Objective | None) -> Table:
    table = Table(title=escape(f"{result.target.url}{result.target.path}: {_rhythm(result)}"), show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in _rows(result, objective):
        table.add_row(escape(name), escape(value))
    return table


def _rows(result: LoadResult, objective: Objective | None) -> Iterator[tuple[str, str]]:
    yield "answered requests", f"{len(result.succeeded)} of {result.load.requests}"
    yield from ((f"failed: {kind}", str(count)) for kind, count in result.failures.items())
    if result.interrupted:
        yield "interrupted, not ended", str(result.load.requests - len(result.requests))
    yield "duration", f"{result.duration_s:.2f} s"
    yield "requests a second", f"{result.requests_per_second:.2f}"
    if objective is not None:
        limits = ", ".join(f"{name} {limit:g} s" for name, limit in objective.limits().items())
        yield f"of them with {limits} (goodput)", _known(result.goodput(objective), ".2f")
    yield "output tokens a second", _known(result.output_tokens_per_second, ".1f")
    yield "tokens in and out", f"{_known(result.prompt_tokens, 'd')} and {_known(result.completion_tokens, 'd')}"
    if result.without_usage:
        yield "answers without usage, so of unknown tokens", str(result.without_usage)
    if result.load.rate is not None:
        yield "sent late by up to", f"{result.latest_s:.3f} s"
    if result.duration_s > 0:
        yield "a core's time that the generator took", f"{result.cpu_s / result.duration_s:.0%}"


def _latencies(result: LoadResult) -> Table:
    table = Table(caption=escape(f"seconds; {machine()}; {result.date}"))
    for column in ("", "mean", "p50", "p90", "p99"):
        table.add_column(column, justify="right" if column else "left")
    measured = LATENCIES if result.target.streams else {_OF_WHOLE_ANSWERS: LATENCIES[_OF_WHOLE_ANSWERS]}
    for name, title in measured.items():
        found: Distribution | None = getattr(result, name)
        values = [None] * 4 if found is None else [found.mean, found.p50, found.p90, found.p99]
        table.add_row(title, *(_known(value, ".3f") for value in values))
    return table


def _rhythm(result: LoadResult) -> str:
    load = result.load
    rhythm = f"{load.clients} clients" if load.clients is not None else f"{load.rate:g} requests a second"
    return f"{load.requests} {'streams' if result.target.streams else 'whole answers'}, {rhythm}"


def _known(value: float | None, form: str) -> str:
    return "unknown" if value is None else format(value, form)


def _plain(found: Distribution | None) -> dict[str, float] | None:
    return None if found is None else asdict(found)
