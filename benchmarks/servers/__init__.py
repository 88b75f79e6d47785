"""The servers under test: each takes turns, in which fresh processes of it answer every load.

To add one: an `HttpServer`, or another class with what `Contender` asks for, and a row in `contenders`. What it serves
is a row of `artifacts.ARTIFACTS`.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.servers.contender import Contender, Task, Turn
from benchmarks.servers.engine import Engine
from benchmarks.servers.mlflow_models import ours, stock
from benchmarks.servers.process import ServerError
from benchmarks.servers.transformers_serve import transformers_serve

OURS = "ours"
NAMES = ("stock", "transformers-serve", OURS, "ours-nf4", "ours-int8", "engine")


def contenders(transformers: Path) -> dict[str, Contender]:
    """Name -> contender, in the order of `NAMES`.

    Args:
        transformers: Executable of transformers, with what its `serving` extra brings.
    """
    return dict(
        zip(
            NAMES,
            (stock(), transformers_serve(transformers), ours(OURS), ours("ours-nf4"), ours("ours-int8"), Engine()),
            strict=True,
        )
    )


__all__ = ["NAMES", "OURS", "Contender", "ServerError", "Task", "Turn", "contenders"]
