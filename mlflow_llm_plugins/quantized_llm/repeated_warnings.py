"""Keeps a library from saying the same thing at every matrix product."""

from __future__ import annotations

import logging

# MatMul8bitLt tells the type of its inputs at every call (bitsandbytes 0.48 to 0.50): thousands of lines an answer.
NOISY_LOGGER = "bitsandbytes.autograd._functions"


class OncePerMessage(logging.Filter):
    """Lets each text through the first time."""

    def __init__(self) -> None:
        """Nothing was said yet."""
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this text is new."""
        text = record.getMessage()
        is_new = text not in self._said
        self._said.add(text)
        return is_new


def say_once() -> None:
    """Let bitsandbytes' 8-bit layers say each thing once a process; may be called again."""
    logger = logging.getLogger(NOISY_LOGGER)
    if not any(isinstance(found, OncePerMessage) for found in logger.filters):
        logger.addFilter(OncePerMessage())
