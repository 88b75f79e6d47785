"""What every benchmark says about itself, and how it prints and saves its rows."""

from __future__ import annotations

import csv
import importlib.metadata
import platform
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mlflow_llm_plugins.hardware import Cpu, probe


@dataclass(frozen=True, slots=True)
class Origin:
    """Where figures come from; the same for all rows of a table."""

    hardware: str
    versions: str
    date: str
    command: str

    @classmethod
    def of(cls, module: str, libraries: Sequence[str]) -> Origin:
        """Of what this process measures.

        Args:
            module: That was run with `python -m`.
            libraries: Distributions whose versions count.
        """
        return cls(hardware(), versions(*libraries), date.today().isoformat(), command_of(module))


def command_of(module: str) -> str:
    """The command line of this process, as others can repeat it."""
    return shlex.join(["python", "-m", module, *sys.argv[1:]])


def hardware() -> str:
    """The machine, as far as this process may use it."""
    found = probe()
    cpu = f"{found.cpu.cores} x {found.cpu.model or 'CPU'} ({', '.join(_instructions(found.cpu)) or 'no AVX2'})"
    memory = f"{found.memory.total_bytes / 2**30:.0f} GiB"
    system = f"{platform.system()} {platform.release()}"
    return ", ".join([cpu, memory, *(gpu.name for gpu in found.accelerators), system])


def _instructions(cpu: Cpu) -> Iterator[str]:
    """Those that decide how fast a model is."""
    has = {"AVX2": cpu.has_avx2, "AVX-512": cpu.has_avx512, "bf16": cpu.has_avx512_bf16, "AMX": cpu.has_amx}
    return (name for name, is_there in has.items() if is_there)


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
