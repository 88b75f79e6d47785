"""The rows of the servers' benchmark as tables to read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.markup import escape
from rich.table import Table

from benchmarks.engine import shown
from benchmarks.served.rows import Row

# None: how many times better the baseline is
COLUMNS = (
    "load",
    "contender",
    "tokens/s",
    None,
    "requests/s",
    "goodput",
    "first token [ms]",
    None,
    "next tokens [ms]",
    "all of it [ms]",
    None,
    "health [ms]",
    "RSS [MB]",
    "failed",
)
TEXT_COLUMNS = 2
PAIR_WIDTH = 16
NOTES = """times are p50 / p99; all figures are medians of the turns; RSS is the peak of all processes of a server
"{baseline} x": so many times better {baseline} is at the same load with answers of the same kind; below 1 it is worse
stock cannot stream, so the others gave whole answers too, to compare with it; only streams tell the first token
engine, genai: in process, without HTTP; health: GET /health of our servers, 20 times a second while the load ran
goodput: requests a second within"""


def tables_of(rows: Sequence[Row]) -> Iterator[Table]:
    """One for each length of prompts; the rows are of one model."""
    for length in dict.fromkeys(row.prompts for row in rows):
        yield _table([row for row in rows if row.prompts == length])


def _table(rows: Sequence[Row]) -> Table:
    first = rows[0]
    tokens = max((row.prompt_tokens for row in rows if row.prompt_tokens is not None), default=None)
    length = f"{first.prompts} prompts" if tokens is None else f"prompts of {tokens:.0f} tokens"
    turns = max(row.runs for row in rows)
    table = Table(
        title=f"Served Llama {first.model}, {length}, turns of fresh processes: {turns}, {first.date}",
        caption=escape("\n".join(_caption(rows))),
        caption_justify="left",
    )
    for number, column in enumerate(COLUMNS):
        column = column or f"{first.baseline} x"
        is_text, width = number < TEXT_COLUMNS, PAIR_WIDTH if column.endswith("[ms]") else None
        table.add_column(escape(column), justify="left" if is_text else "right", no_wrap=is_text, min_width=width)
    for _, group in groupby((row for row in rows if _has_figures(row)), _load):
        for row in group:
            table.add_row(*map(escape, _cells(row)))
        table.add_section()
    return table


def _has_figures(row: Row) -> bool:
    return row.requests_per_second is not None


def _load(row: Row) -> str:
    return f"{row.load}, {row.answers}"


def _cells(row: Row) -> tuple[str, ...]:
    return (
        _load(row),
        row.contender,
        shown(row.output_tokens_per_second),
        shown(row.baseline_tokens_x),
        shown(row.requests_per_second),
        shown(row.goodput),
        _pair(row.ttft_p50, row.ttft_p99),
        shown(row.baseline_ttft_x),
        _pair(row.itl_p50, row.itl_p99),
        _pair(row.e2el_p50, row.e2el_p99),
        shown(row.baseline_e2el_x),
        _pair(row.health_p50, row.health_p99),
        shown(row.peak_rss_mb),
        str(row.failed or ""),
    )


def _pair(p50: float | None, p99: float | None) -> str:
    return "" if p50 is None or p99 is None else f"{shown(p50 * 1e3)} / {shown(p99 * 1e3)}"


def _caption(rows: Sequence[Row]) -> Iterator[str]:
    first = rows[0]
    yield f"{NOTES.format(baseline=first.baseline)} {first.objective} (seconds)"
    failed = [row for row in rows if row.failure]
    yield from dict.fromkeys(
        f"{row.contender}, {_load(row) if _has_figures(row) else 'no figures'}: {row.failure[:100]}" for row in failed
    )
    yield f"{first.hardware}; {first.versions}"
    yield first.command
