"""The child's side of `ChildProcess`: what runs before the function that it was started for."""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import sys
import traceback
from multiprocessing.connection import Connection

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(descriptor: int, parent: int) -> None:
    """Call the target that the first message names, and leave this process.

    Args:
        descriptor: Of the connection to the parent.
        parent: The parent's process id.
    """
    _end_with_parent(parent)
    status = 0
    try:
        connection = Connection(descriptor)
        target, arguments = connection.recv()
        module, _, function = target.partition(":")
        getattr(importlib.import_module(module), function)(connection, arguments)
    except (EOFError, BrokenPipeError, ConnectionResetError):  # the parent has gone or wants no more
        pass
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stderr.flush()
    os._exit(status)  # libraries that tear down their threads take time, and may crash


def _end_with_parent(parent: int) -> None:
    """Have this process killed when its parent ends; elsewhere than on Linux the connection's end tells."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before
        os._exit(1)
