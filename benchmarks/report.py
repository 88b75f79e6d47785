"""What every benchmark says about itself, and how it prints and saves its rows."""

from __future__ import annotations

import csv
import importlib.metadata
import platform
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mlflow_llm_plugins.hardware import probe


def hardware() -> str:
    """The machine, as far as this process may use it."""
    found = probe()
    memory = f"{found.memory.total_bytes / 2**30:.0f} GiB"
    return ", ".join([f"{found.cpu.cores} x {found.cpu.model}", memory, *(gpu.name for gpu in found.accelerators)])


def versions(*distributions: str) -> str:
    """Python's version and those of the distributions that are installed."""
    return ", ".join([f"python {platform.python_version()}", *_installed(distributions)])


def _installed(distributions: Sequence[str]) -> Iterator[str]:
    for name in distributions:
        try:
            yield f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue


def show(table: Table, width: int) -> None:
    """Print a table at the terminal's width, but never narrower than `width`."""
    Console(width=max(width, shutil.get_terminal_size().columns)).print(table)


def save(rows: Sequence[Any], path: Path) -> Path:
    """Write dataclass instances, all of one class and at least one, as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(asdict(rows[0])))
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    return path
