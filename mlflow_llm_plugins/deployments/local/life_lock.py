"""The lock that a supervisor holds for its life: the system frees it whatever ends the process. It tells who that is.

Not `filelock`, which makes a folder that has gone, and before version 4 empties the file while another one holds it.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from pathlib import Path

from pydantic import ValidationError

from mlflow_llm_plugins.deployments.local.process_identity import ProcessIdentity
from mlflow_llm_plugins.errors import HardwareError

_START_S = 10.0  # for those who only look whether it is held, for an instant each
_LOOK_EVERY_S = 0.05


class LifeLock:
    """A lock that this process holds until it ends or releases it."""

    def __init__(self, descriptor: int) -> None:
        """Of the file, which is locked."""
        self._descriptor = descriptor

    def is_at(self, path: Path) -> bool:
        """Whether the path is still that of this lock."""
        return _is_at(path, self._descriptor)

    def release(self) -> None:
        """Let others have it; once."""
        os.close(self._descriptor)


def acquire(path: Path, timeout_s: float = _START_S) -> LifeLock | None:
    """Hold the lock and write there who does.

    Args:
        path: Of the file, made for its owner alone. Its folder is not made.
        timeout_s: How long another holder is waited for.

    Returns:
        None: Another process holds it, or there is no such folder.

    Raises:
        HardwareError: The file cannot be locked or written.
    """
    deadline = time.monotonic() + timeout_s
    try:
        while (lock := _try(path)) is None and path.parent.is_dir() and time.monotonic() < deadline:
            time.sleep(_LOOK_EVERY_S)
    except OSError as error:
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


def holder(path: Path) -> ProcessIdentity | None:
    """Who holds it, or held it last; None: it does not say, as for an instant when it gets another holder."""
    try:
        return ProcessIdentity.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _try(path: Path) -> LifeLock | None:
    import fcntl

    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except FileNotFoundError:
        return None
    with ExitStack() as unless_held:
        unless_held.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        if not _is_at(path, descriptor):  # its folder was moved away meanwhile, to be deleted
            return None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, ProcessIdentity.own().model_dump_json().encode(), 0)
        unless_held.pop_all()
    return LifeLock(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except (FileNotFoundError, NotADirectoryError):
        return False


def _not_here(path: Path, error: Exception) -> HardwareError:
    return HardwareError(
        f"{path} cannot be locked: {error}. Set MLFLOW_LLM_HOME to a directory on a local disk that you can write."
    )
