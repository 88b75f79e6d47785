"""Where the target works."""

from __future__ import annotations

from mlflow_llm_plugins.errors import HardwareError


def refuse_without_posix() -> None:
    """Raise where the system has no POSIX locks and signals, which supervisors are made of.

    Raises:
        HardwareError: Says what to do.
    """
    try:
        import fcntl  # noqa: F401
    except ImportError as error:
        raise HardwareError(
            "The deployment target `local` needs a POSIX system (fcntl and signals): Linux or macOS. On Windows use "
            "it inside WSL, or run `mlflow models serve`."
        ) from error
