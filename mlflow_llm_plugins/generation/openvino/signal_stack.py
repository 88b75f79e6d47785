"""Keeps Ctrl-C working in a process that compiles OpenVINO models.

Compiling gives the calling thread an alternate stack for signals, and releasing the model gives back the one that was
there before (openvino 2026.4). Where the lives of two models overlap, that is one that has been freed: the next signal
ends the process with a segmentation fault, since Python's own handlers run on such a stack where there is one.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager


class _Stack(ctypes.Structure):
    """`stack_t` of Linux; the fields have another order on macOS, and are only handed back here."""

    _fields_ = [("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


@contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Give the thread back the stack for signals that it had, whatever libraries do in the block.

    Each creation of a compiled model belongs into a block of its own, so that what the model gives back when it is
    released is the thread's own, too.
    """
    swap = getattr(ctypes.CDLL(None), "sigaltstack", None) if os.name == "posix" else None
    before = _Stack()
    if swap is None or swap(None, ctypes.byref(before)) != 0:
        yield
        return
    try:
        yield
    finally:
        swap(ctypes.byref(before), None)
