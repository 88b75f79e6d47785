"""Becomes a command that ends with its parent: `python -m ...launcher PARENT_PID -- COMMAND...`. Imports little.

On Linux the kernel then sends SIGTERM when the thread that started it ends, however that ends, so servers are started
from the supervisor's main thread. Other systems have no such signal; a server outlives a killed supervisor there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def main(arguments: Sequence[str]) -> None:
    """Replace this process by the command, unless its parent has ended already."""
    parent, _, *command = arguments
    _end_with_parent()
    if os.getppid() != int(parent):  # it ended before the kernel knew what to do then
        sys.exit(1)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"{command[0]} cannot be started: {error.strerror}")


def _end_with_parent() -> None:
    import ctypes
    import signal

    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


if __name__ == "__main__":
    main(sys.argv[1:])
