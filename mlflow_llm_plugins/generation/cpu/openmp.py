"""The worker threads that libgomp keeps for each thread that runs torch, and what they do between operations.

An operation on several CPUs wakes workers and waits for them, some two hundred times a step. Workers that spin
meanwhile save a sixth of a step of a small model, as long as nothing else wants their CPU: with one other busy process
on the machine the same step takes two to forty times longer, since everybody waits, spinning, for a worker that does
not run. libgomp decides by a count, anew at each wait: while a process has no more OpenMP threads than CPUs, workers
spin for some milliseconds, else they sleep at once. So sleeping is made sure of by one idle set of workers, and
spinning by leaving none behind.

Other OpenMP libraries are left alone.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

_logger = logging.getLogger(__name__)

_PAUSE_HARD = 2  # omp_pause_hard
_PATIENCE_S = 5.0
_LARGE = 1 << 20  # elements that torch divides among all threads


def release_workers() -> None:
    """End the workers of the calling thread; its next operation starts them again."""
    library = _libgomp()
    if library is not None:
        library.omp_pause_resource_all(_PAUSE_HARD)


@contextmanager
def own_workers_released() -> Iterator[None]:
    """Leave no workers of this thread behind beside those of the generation thread."""
    try:
        yield
    finally:
        release_workers()


def can_use_threads() -> bool:
    """Whether `use_threads` has an effect here."""
    return _libgomp() is not None


def use_threads(count: int) -> None:
    """Let the calling thread, and no other, divide its operations among `count` threads."""
    library = _libgomp()
    if library is not None:
        torch.get_num_threads()  # torch gives a new thread its own number at the first call, which must not come later
        library.omp_set_num_threads(count)


class IdleWorkers:
    """Workers that never do anything: while they are there, all others of the process sleep between operations.

    Thread-safe.
    """

    def __init__(self) -> None:
        """None are there yet."""
        self._lock = threading.Lock()  # of what follows
        self._closed = False
        self._ending: threading.Event | None = None  # while they are there
        self._thread: threading.Thread | None = None  # the last one that had them

    def start(self) -> None:
        """Have them, where they have a meaning, until `stop`."""
        with self._lock:
            if self._closed or self._ending is not None or not can_use_threads() or torch.get_num_threads() == 1:
                return
            there, ending = threading.Event(), threading.Event()
            idle = partial(_idle, there, ending)
            thread = threading.Thread(target=idle, name="llm-engine-idle-workers", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # a limit of the system: steps are slower beside a neighbour, and go on
                _logger.warning("Worker threads cannot be made to sleep: %s.", error)
                return
            self._ending, self._thread = ending, thread
            there.wait(_PATIENCE_S)

    def stop(self) -> None:
        """End them; they are gone a moment later."""
        with self._lock:
            if self._ending is not None:
                self._ending.set()
                self._ending = None

    def close(self) -> None:
        """End them for good."""
        with self._lock:
            self._closed, thread = True, self._thread
        self.stop()
        if thread is not None and thread is not threading.current_thread():
            thread.join(_PATIENCE_S)


def _idle(there: threading.Event, ending: threading.Event) -> None:
    # so many that they outnumber the CPUs that libgomp knows of, however few the engine may use of them
    use_threads(max(_usable_cpus(), torch.get_num_threads()))
    torch.zeros(_LARGE).add_(1)
    there.set()
    ending.wait()


def _usable_cpus() -> int:
    """As libgomp counts: what the affinity mask of the process allows."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def _libgomp() -> ctypes.CDLL | None:
    """The library that torch came with; None where it uses another one, or one without OpenMP 5."""
    for path in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*")):
        try:
            library = ctypes.CDLL(str(path))
            _ = library.omp_pause_resource_all, library.omp_set_num_threads
        except (OSError, AttributeError) as error:
            _logger.debug("The worker threads of %s cannot be directed: %s", path, error)
        else:
            return library
    return None
