"""`status.json`: what the supervisor tells."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow_llm_plugins.deployments.local.records import Status, write_record

_logger = logging.getLogger(__name__)


_Stamp = tuple[int, int, int]


class StatusFile:
    """Keeps the status and writes it when it, or the file, has changed. That it cannot be written ends no server."""

    def __init__(self, path: Path, status: Status, told: Callable[[Status], None] | None = None) -> None:
        """Nothing is written before the first change.

        Args:
            path: Of the file.
            status: The first one.
            told: Called with each one that is new.
        """
        self._path = path
        self._told = told
        self._written: Status | None = None
        self._stamp: _Stamp | None = None  # of the file then
        self._said = ""
        self.status = status

    def change(self, **fields: Any) -> None:
        """Set fields of the status, and write it."""
        before, self.status = self.status, self.status.model_copy(update=fields)
        if self.status.state != before.state:
            _logger.info("%s %s", self.status.state, self.status.reason)
        if self._told is not None and self.status != before:
            self._told(self.status)
        self.save()

    def save(self) -> None:
        """Write it, unless the file is as it was written."""
        if self.status == self._written and self._stamp is not None and self._stamp == _stamp_of(self._path):
            return
        try:
            write_record(self.status, self._path)
        except OSError as error:
            self._say(f"{self._path} cannot be written: {error.strerror}.")
        else:
            self._written, self._stamp = self.status, _stamp_of(self._path)
            self._said = ""

    async def keep(self, every_s: float) -> None:
        """Write it again when it could not be written, or others have deleted or damaged it; until cancelled."""
        while True:
            await asyncio.sleep(every_s)
            self.save()

    def _say(self, words: str) -> None:
        if words != self._said:  # once, not with every round
            _logger.warning("%s", words)
            self._said = words


def _stamp_of(path: Path) -> _Stamp | None:
    """Another one for each content; None where there is no file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
