"""Errors of torch and OpenVINO that are about the machine, not about the model, told by their texts alone."""

from __future__ import annotations

# By C++ and torch (2.13), and by OpenVINO (2026.4), which writes files through C++ streams.
_OF_MEMORY = ("bad_alloc", "DefaultCPUAllocator", "not enough memory", "Cannot allocate memory")
_OF_DISK = ("iostream error", "No space left")


def is_of_memory(error: BaseException) -> bool:
    """Whether memory was too small."""
    return isinstance(error, MemoryError) or _says(error, _OF_MEMORY)


def is_of_disk(error: BaseException) -> bool:
    """Whether a file could not be written to its end."""
    return isinstance(error, OSError) or _says(error, _OF_DISK)


def _says(error: BaseException, words: tuple[str, ...]) -> bool:
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)
