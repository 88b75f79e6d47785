"""The lock that a supervisor holds for its life: the system frees it whatever ends the process."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout

from mlflow_llm_plugins.errors import HardwareError

_START_S = 10.0  # for those who only look whether it is held, for an instant each


def acquire(path: Path, timeout_s: float = _START_S) -> FileLock | None:
    """Hold the lock until this process ends or it is released; None: another process holds it."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=timeout_s)
    except Timeout:
        return None
    except (OSError, NotImplementedError) as error:
        raise _not_here(path, error) from error
    return lock


def is_held(path: Path) -> bool:
    """Whether a process holds it. Looking takes a shared lock, so that two who look do not see one another."""
    import fcntl

    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError as error:
        raise _not_here(path, error) from error
    return False


def _not_here(path: Path, error: Exception) -> HardwareError:
    return HardwareError(
        f"{path} cannot be locked: {error}. Set MLFLOW_LLM_HOME to a directory on a local disk that you can write."
    )
