"""The memory allocator of a process that generates on a CPU."""

from __future__ import annotations

import ctypes
import logging
import platform

_logger = logging.getLogger(__name__)

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
_LARGE_BYTES = 1 << 30


def tune_allocator() -> None:
    """Let glibc keep large buffers instead of mapping them anew for each use; for the whole process, on glibc only.

    The keys and values that a step gathers are buffers above glibc's largest threshold for itself, 32 MB, and an arena
    of a thread's own cannot hold them at all.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    for parameter, value in (
        (_M_MMAP_THRESHOLD, _LARGE_BYTES),
        (_M_TRIM_THRESHOLD, _LARGE_BYTES),
        (_M_ARENA_MAX, 1),
    ):
        if not libc.mallopt(parameter, value):
            _logger.debug("mallopt(%d, %d) was refused.", parameter, value)
