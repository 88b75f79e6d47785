"""The CPU threads of a process that generates: those that it was really granted."""

from __future__ import annotations

import os

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.hardware import granted_cpus

NUM_THREADS_ENV = "MLFLOW_LLM_NUM_THREADS"


def set_threads(num_threads: int | None) -> int:
    """Set torch's intra-op threads for this process.

    Args:
        num_threads: As for `threads_to_use`.

    Returns:
        The number set.
    """
    import torch

    count = threads_to_use(num_threads)
    if count != torch.get_num_threads():
        torch.set_num_threads(count)
    return count


def threads_to_use(num_threads: int | None) -> int:
    """How many threads an engine computes with.

    Args:
        num_threads: None takes MLFLOW_LLM_NUM_THREADS, else the CPUs that affinity and cgroup quota grant; libraries
            alone would count the host's, and more threads than CPUs are several times slower.
    """
    return num_threads or _from_environment() or granted_cpus()


def _from_environment() -> int | None:
    value = os.environ.get(NUM_THREADS_ENV, "").strip()
    if not value:
        return None
    if not value.isdecimal() or int(value) < 1:
        raise InvalidInputError(f"{NUM_THREADS_ENV} must be a whole number of at least 1, got {value!r}.")
    return int(value)
