"""Timing of small pieces of work at load, on machines where other work goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch

Result = TypeVar("Result")

_ROUNDS = 7
_PATIENCE_S = 600.0


def fastest(actions: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Seconds of the fastest of several rounds of each action; they take turns, so that all see the same machine."""
    best = dict.fromkeys(actions, float("inf"))
    with torch.no_grad():
        for _ in range(_ROUNDS):
            for name, act in actions.items():
                started = time.perf_counter()
                act()
                best[name] = min(best[name], time.perf_counter() - started)
    return best


def in_thread_of_its_own(measure: Callable[[], Result]) -> Result:
    """What `measure` returns; its operations have workers of their own, as those of a generation thread have.

    Raises:
        RuntimeError: It does not return, or raises one.
    """
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(measure())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="llm-engine-timing", daemon=True)
    thread.start()
    thread.join(_PATIENCE_S)
    if errors:
        raise errors[0]
    if not results:
        raise RuntimeError(f"A measurement at load did not end within {_PATIENCE_S:.0f} s.")
    return results[0]
