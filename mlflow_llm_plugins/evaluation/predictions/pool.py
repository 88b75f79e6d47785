"""Rows asked by a bounded number of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any

from mlflow_llm_plugins.evaluation.predictions.failures import attempt
from mlflow_llm_plugins.evaluation.predictions.prediction import Prediction

_SHORT = 16  # up to so many rows nobody wants a progress bar


def ask_each(ask: Callable[[int], Prediction], rows: int, workers: int, *, progress: bool = True) -> list[Prediction]:
    """Ask for each row; one that fails gets its reason. How long a row may take is up to `ask`.

    Args:
        ask: Gets the number of a row; called by several threads, each in a copy of the caller's context, so that
            MLflow's tracing and settings are the same there. With one worker the calling thread calls it.
        rows: How many.
        workers: How many at the same time, at least 1.
        progress: Whether many rows may show a progress bar on a terminal.
    """
    with progress_bar(rows, progress) as advance:
        if workers == 1 or rows == 1:
            return [_asked(ask, row, advance) for row in range(rows)]
        return _by_threads(ask, rows, min(workers, rows), advance)


@contextmanager
def progress_bar(total: int, wanted: bool) -> Iterator[Callable[[], Any]]:
    """What is called after each row."""
    from tqdm import tqdm

    disable = None if wanted and total > _SHORT else True  # None: shown on a terminal only
    with tqdm(total=total, unit="row", desc="Predicting", disable=disable) as bar:
        yield bar.update


def _asked(ask: Callable[[int], Prediction], row: int, advance: Callable[[], Any]) -> Prediction:
    prediction = attempt(lambda: ask(row), row)
    advance()
    return prediction


def _by_threads(
    ask: Callable[[int], Prediction], rows: int, workers: int, advance: Callable[[], Any]
) -> list[Prediction]:
    executor = ThreadPoolExecutor(workers, thread_name_prefix="llm-predict")
    try:
        futures = [executor.submit(copy_context().run, attempt, lambda row=row: ask(row), row) for row in range(rows)]
        for _ in as_completed(futures):
            advance()
        return [future.result() for future in futures]
    finally:
        # All is done, or the user interrupts: what was not begun never is, and nobody waits for a model that hangs.
        executor.shutdown(wait=False, cancel_futures=True)
