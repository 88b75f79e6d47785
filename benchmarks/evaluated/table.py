"""The rows of the evaluation's benchmark as a table to read: a line for each contender, a column for each figure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.markup import escape
from rich.table import Table

from benchmarks.engine import shown
from benchmarks.evaluated.rows import BARS_ARE_FOR, Row

TITLES = {
    "evaluator": "mlflow.models.evaluate of Llama {model}, {rows} rows, answers of {tokens} tokens",
    "parts": "what ours spends in mlflow.models.evaluate, Llama {model}, {rows} rows",
    "judge": "judges by Llama {model}, {rows} rows",
}
NOTES = {
    "evaluator": "all that a user waits for in evaluate(), tables and plots too, but not the loading of the model\n"
    '"times stock": so many times the time of ours does the default evaluator take, with the same metrics',
    "parts": "all else: what MLflow does around an evaluator, and what is imported for the first time",
    "judge": "judge, judge-words: one order, no control rows; options of one token, and of up to four\n"
    "judge-default: with control rows; judge-two-orders: these and both orders of the options\n"
    "json, json-uncached: a written verdict of 40 tokens by the same engine with and without its prefix cache\n"
    "genai: make_genai_metric behind a deployment of this package, CPU of all processes of that; genai-constrained: "
    "the same, and the server keeps the form of the answer\n"
    '"CPU, of x": which part of the CPU seconds of x it takes; own tokens: all of a prompt but the shared beginning',
}


def table_of(rows: Sequence[Row]) -> Table:
    """Of rows with the same `what`."""
    first = rows[0]
    title = TITLES[first.what].format(model=first.model, rows=first.data_rows, tokens=first.max_tokens)
    table = Table(
        title=f"{title}, medians of {max(row.runs for row in rows)} runs, {first.date}",
        caption=escape("\n".join(_caption(rows))),
        caption_justify="left",
    )
    figures = list(dict.fromkeys(row.figure for row in rows if row.figure))
    has_loads = any(row.load for row in rows)
    for column in (["load"] if has_loads else []) + ["contender" if first.what != "parts" else "part"]:
        table.add_column(column, no_wrap=True)
    for figure in figures:
        table.add_column(escape(figure), justify="right")
    for load in dict.fromkeys(row.load for row in rows):
        own = [row for row in rows if row.load == load and row.figure]
        for name in dict.fromkeys(row.contender for row in own):
            cells = {row.figure: _cell(row) for row in own if row.contender == name}
            names = [load, name] if has_loads else [name]
            table.add_row(*map(escape, [*names, *(cells.get(figure, "") for figure in figures)]))
        table.add_section()
    return table


def _cell(row: Row) -> str:
    if row.holds is None:
        return shown(row.value)
    return f"{shown(row.value)}\n{row.bar}:\n{'held' if row.holds else 'MISSED'}"


def _caption(rows: Sequence[Row]) -> Iterator[str]:
    first = rows[0]
    yield NOTES[first.what]
    if any(row.bar and row.holds is None for row in rows):
        yield f"held against no bars: these are for Llama {BARS_ARE_FOR[0]} and {BARS_ARE_FOR[1]} rows"
    yield from dict.fromkeys(
        f"{' '.join(filter(None, (row.contender, row.load)))}, failed: {row.failure[:150]}"
        for row in rows
        if row.failure
    )
    yield f"{first.hardware}; {first.versions}"
    yield first.command
