"""What becomes of requests that a GPU's memory cannot hold: each is refused or fails in words, and the engine lives.

    python -m benchmarks.out_of_memory --device cuda [--models 1b] [--leave-mb 64] [--out benchmarks/results]

A model with random weights is opened and answers a request. Then all of the GPU's free memory but `--leave-mb` is
taken away, as another process would take it, and requests with long prompts arrive together. After that the memory is
given back, and one more request must be answered by the same process. On a CPU nothing is taken away, which only shows
that the benchmark runs. The exit status tells whether the last request was answered.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from benchmarks.loads import Load
from benchmarks.models import SHAPES, byte_level_tokenizer, random_model
from benchmarks.report import Origin, save, show

LIBRARIES = ("mlflow-llm-plugins", "torch", "transformers", "bitsandbytes")
SHORT = Load("before", ((32, 8),))
LONG = Load("16 x 4000 + 32", ((4000, 32),) * 16)
DEADLINE_S = 120.0  # of a request
PIECE = 2**20  # bytes; memory is taken in pieces from large to this


@dataclass(frozen=True, slots=True)
class Row:
    """How many requests ended in which way."""

    model: str
    load: str
    outcome: str  # "answered", or the error with its message
    requests: int
    device: str
    hardware: str
    versions: str
    date: str
    command: str


def measure(model: str, device: str, leave_bytes: int) -> Iterator[tuple[str, str, int]]:
    """(load, outcome, requests), in the order of what happens."""
    from mlflow_llm_plugins.generation import EngineSettings, open_engine

    shape = SHAPES[model]
    settings = EngineSettings(max_context_length=4096, request_timeout_s=DEADLINE_S)
    engine = open_engine(random_model(shape, device), byte_level_tokenizer(shape.vocabulary), settings)
    try:
        yield from outcomes("before", engine, SHORT, shape.vocabulary)
        with taken(device, leave_bytes):
            yield from outcomes(LONG.name, engine, LONG, shape.vocabulary)
        yield from outcomes("after", engine, SHORT, shape.vocabulary)
    finally:
        engine.close()


def outcomes(name: str, engine: Any, load: Load, vocabulary: int) -> Iterator[tuple[str, str, int]]:
    """Send all requests at once, and say how they end."""
    prompts = zip(load.prompts(vocabulary), load.lengths, strict=True)
    streams = [_submitted(engine, ids, new) for ids, (_, new) in prompts]
    found = Counter(stream if isinstance(stream, str) else _ended(stream.result) for stream in streams)
    yield from ((name, outcome, count) for outcome, count in found.items())


def _submitted(engine: Any, ids: list[int], new_tokens: int) -> Any:
    """The stream, or why there is none."""
    from mlflow_llm_plugins.generation import GenerationRequest

    try:
        return engine.submit(GenerationRequest(ids, max_new_tokens=new_tokens, eos_token_ids=()))
    except Exception as error:  # the refusal is what is measured
        return said(error)


def _ended(result: Any) -> str:
    try:
        result()
    except Exception as error:  # so is the failure
        return said(error)
    return "answered"


def said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


@contextmanager
def taken(device: str, leave_bytes: int) -> Iterator[None]:
    """All of the GPU's free memory but so many bytes, until the block ends."""
    import torch

    pieces = []
    if device == "cuda":
        torch.cuda.empty_cache()
        size = torch.cuda.mem_get_info()[0] - leave_bytes
        while size >= PIECE:
            try:
                pieces.append(torch.empty(size, dtype=torch.uint8, device=device))
            except torch.OutOfMemoryError:
                size //= 2
            else:
                size = min(size, torch.cuda.mem_get_info()[0] - leave_bytes)
    try:
        yield
    finally:
        pieces.clear()
        if device == "cuda":
            torch.cuda.empty_cache()


def table_of(rows: list[Row]) -> Table:
    first = rows[0]
    table = Table(
        title=f"Out of memory, Llama {first.model} on {first.device}, {first.date}",
        caption=escape(f"{first.hardware}; {first.versions}\n{first.command}"),
    )
    for column in ("load", "requests", "outcome"):
        table.add_column(column)
    for row in rows:
        table.add_row(row.load, str(row.requests), escape(row.outcome))
    return table


def lives(rows: list[Row]) -> bool:
    """Whether the last request was answered."""
    return [row.outcome for row in rows if row.load == "after"] == ["answered"]


def main() -> int:
    """Measure and report; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=["1b"])
    parser.add_argument("--leave-mb", type=int, default=64, help="of the GPU's memory, for the engine")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the CSV")
    options = parser.parse_args()
    all_live = True
    for model in options.models:
        origin = Origin.of("benchmarks.out_of_memory", LIBRARIES)
        found = measure(model, options.device, options.leave_mb * 2**20)
        rows = [Row(model, *ended, options.device, **asdict(origin)) for ended in found]
        show(table_of(rows), width=130)
        print(f"saved {save(rows, options.out / f'out_of_memory_{model}_{options.device}.csv')}")
        all_live = all_live and lives(rows)
    return int(not all_live)


if __name__ == "__main__":
    sys.exit(main())
