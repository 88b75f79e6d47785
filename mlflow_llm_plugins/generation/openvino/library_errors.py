"""What OpenVINO's exceptions say, without where in its sources they were raised."""

from __future__ import annotations

import re

_PLACE = re.compile(r"^(?:\[[\d:]+\] \S+:\d+: )?(?:Check failed: \(.*\) is false: )?")
_CHECKS = ("Check ", "Exception from ")  # lines before the message, or all there is


def library_reason(error: Exception) -> str:
    """The last line that is a message, else the last one, else the error's class; without a full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    messages = [_PLACE.sub("", line) for line in lines]
    told = [message for message in messages if message and not message.startswith(_CHECKS)]
    return (told or lines or [type(error).__name__])[-1].rstrip(".")
