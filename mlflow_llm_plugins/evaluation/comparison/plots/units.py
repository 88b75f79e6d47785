"""Units in which numbers are short."""

from __future__ import annotations


def seconds_unit(most: float) -> tuple[str, float]:
    """The unit for times up to so many seconds, and what to divide them by."""
    return ("s", 1.0) if most >= 1 else ("ms", 1e-3)


def bytes_unit(most: float) -> tuple[str, float]:
    """The unit for sizes up to so many bytes, and what to divide them by."""
    return ("GB", 1e9) if most >= 1e9 else ("MB", 1e6)
