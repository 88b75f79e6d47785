"""The CPU threads of a process that generates: as many as it was granted, and nobody's left over."""

from __future__ import annotations

import ctypes
import functools
import logging
import os
from collections.abc import Callable
from pathlib import Path

import torch

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.hardware import granted_cpus

_logger = logging.getLogger(__name__)

NUM_THREADS_ENV = "MLFLOW_LLM_NUM_THREADS"

_PAUSE_HARD = 2  # omp_pause_hard


def set_threads(num_threads: int | None) -> int:
    """Set torch's intra-op threads for this process.

    Args:
        num_threads: None takes MLFLOW_LLM_NUM_THREADS, else the CPUs that affinity and cgroup quota grant; torch
            alone would count the host's, and more threads than CPUs are several times slower.

    Returns:
        The number set.
    """
    count = num_threads or _from_environment() or granted_cpus()
    if count != torch.get_num_threads():
        torch.set_num_threads(count)
    return count


def release_worker_threads() -> None:
    """End the OpenMP workers that belong to the calling thread; its next parallel region starts them again.

    Every thread that runs torch gets workers of its own and keeps them. As soon as a process has more of them than
    CPUs, libgomp lets all of them sleep between parallel regions instead of spinning for a moment, which costs the
    generation thread a third of a step at small batches. So whoever has worked beside it cleans up. Does nothing with
    other OpenMP libraries.
    """
    pause = _omp_pause()
    if pause is not None:
        pause(_PAUSE_HARD)


@functools.cache
def _omp_pause() -> Callable[[int], int] | None:
    """`omp_pause_resource_all` of the libgomp that torch came with."""
    for library in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*")):
        try:
            pause: Callable[[int], int] = ctypes.CDLL(str(library)).omp_pause_resource_all
        except (OSError, AttributeError) as error:
            _logger.debug("%s cannot release its threads: %s", library, error)
        else:
            return pause
    return None


def _from_environment() -> int | None:
    value = os.environ.get(NUM_THREADS_ENV, "").strip()
    if not value:
        return None
    if not value.isdecimal() or int(value) < 1:
        raise InvalidInputError(f"{NUM_THREADS_ENV} must be a whole number of at least 1, got {value!r}.")
    return int(value)
