"""What OpenVINO's exceptions say, without where in its sources they were raised."""

from __future__ import annotations

import re

_SOURCE_PLACE = re.compile(r"^\[[\d:]+\] \S+:\d+: ")
_PREAMBLES = ("Check ", "Exception from ")


def library_reason(error: Exception) -> str:
    """One line without a full stop: the last that is no check, time or source file; else the error's class."""
    lines = [_SOURCE_PLACE.sub("", line).strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith(_PREAMBLES)]
    return told[-1].rstrip(".") if told else type(error).__name__
