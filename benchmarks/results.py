"""RESULTS.md from the CSV files of the benchmarks, and from nothing else.

    python -m benchmarks.results [--results benchmarks/results] [--out benchmarks/RESULTS.md]

Ratios come first, figures after them. A benchmark without a file is named as not run.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.engine import shown
from benchmarks.sections import SECTIONS, CsvRow, Section, number

HEAD = """# Results

Made by `python -m benchmarks.results` of the files in `results/`, which `python -m benchmarks` writes. Figures are
medians; what a benchmark measures, and how, is at the top of its module. Ratios carry from machine to machine better
than figures do."""


def document(folder: Path) -> str:
    """The text of RESULTS.md.

    Args:
        folder: With the CSV files; nothing else is looked at, so the same files give the same text.
    """
    parts = [HEAD, *_machines(folder)]
    missing = [section for section in SECTIONS if not any(section.tables(folder))]
    for section in SECTIONS:
        if section not in missing:
            parts += [f"## {section.title}", *_section(section, folder)]
    if missing:
        parts.append("## Not run\n\n" + "\n".join(f"- {each.title}: `benchmarks.{each.name}`" for each in missing))
    return "\n\n".join(parts) + "\n"


def _machines(folder: Path) -> Iterator[str]:
    """Each with the days on which it was measured."""
    days: dict[str, set[str]] = {}
    for section in SECTIONS:
        for _, rows in section.tables(folder):
            days.setdefault(rows[0]["hardware"], set()).add(rows[0]["date"])
    for machine, found in days.items():
        yield f"{machine}; {', '.join(sorted(found))}"


def _section(section: Section, folder: Path) -> Iterator[str]:
    for path, rows in section.tables(folder):
        first = rows[0]
        yield f"### {path.stem}"
        yield f"`{first['command']}`\n\n{first['date']}; {first['hardware']}; {first['versions']}"
        if section.notes:
            yield _filled(section.notes, first)
        yield "\n".join(_table(section, [row for row in rows if not row.get("failure") or _has_figures(section, row)]))
        if failures := list(_failures(section, rows)):
            yield "\n".join(failures)


def _table(section: Section, rows: Sequence[CsvRow]) -> Iterator[str]:
    """Columns in which no row has anything are left out."""
    if not rows:
        yield "No figures."
        return
    columns = {**section.keys, **section.ratios, **section.figures}
    if section.has_lines_of_figures:
        rows, columns = _side_by_side(rows)
    used = {name: heading for name, heading in columns.items() if any(row.get(name) for row in rows)}
    yield _line([_filled(heading, rows[0]) for heading in used.values()])
    yield _line(["---" if name in section.keys else "---:" for name in used])
    yield from (_line([_cell(row.get(name, "")) for name in used]) for row in rows)


def _side_by_side(rows: Sequence[CsvRow]) -> tuple[list[CsvRow], dict[str, str]]:
    """A row for each load and contender, in which a figure is a column for its ratio and one for its median."""
    together: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        names = {name: row[name] for name in ("load", "contender")}
        own = together.setdefault((row["load"], row["contender"]), names)
        own |= {f"times {row['figure']}": row["times_baseline"], row["figure"]: row["value"]}
    figures = list(dict.fromkeys(row["figure"] for row in rows))
    columns = {"load": "load", "contender": "contender", **{f"times {name}": f"times, {name}" for name in figures}}
    return list(together.values()), {**columns, **{name: name for name in figures}}


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    value = number(text)
    return text.replace("|", "\\|") if value is None else shown(value)


def _filled(text: str, row: CsvRow) -> str:
    return text.replace("{baseline}", row.get("baseline", ""))


def _has_figures(section: Section, row: CsvRow) -> bool:
    return any(row.get(name) for name in section.figures)


def _failures(section: Section, rows: Sequence[CsvRow]) -> Iterator[str]:
    """Those that failed in the same way in one line."""
    reasons = (f"- {row.get('contender', '')}: {row['failure']}" for row in rows if row.get("failure"))
    yield from dict.fromkeys(reasons)


def write(folder: Path, path: Path) -> Path:
    """Write the file anew."""
    path.write_text(document(folder), encoding="utf-8")
    return path


def main() -> None:
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=here / "results", help="folder of the CSV files")
    parser.add_argument("--out", type=Path, default=here / "RESULTS.md")
    options = parser.parse_args()
    print(f"wrote {write(options.results, options.out)}")


if __name__ == "__main__":
    main()
