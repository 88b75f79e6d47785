"""`status.json`: what the supervisor tells."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow_llm_plugins.deployments.local.records import Status, write_record

_logger = logging.getLogger(__name__)


class StatusFile:
    """Keeps the status and writes it when it has changed. That it cannot be written ends no server."""

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
        self._said = ""
        self.status = status

    def change(self, **fields: Any) -> None:
        """Set fields of the status; what could not be written before is tried again."""
        before, self.status = self.status, self.status.model_copy(update=fields)
        if self.status.state != before.state:
            _logger.info("%s %s", self.status.state, self.status.reason)
        if self._told is not None and self.status != before:
            self._told(self.status)
        if self.status == self._written:
            return
        try:
            write_record(self.status, self._path)
        except OSError as error:
            self._say(f"{self._path} cannot be written: {error.strerror}.")
        else:
            self._written = self.status
            self._said = ""

    def _say(self, words: str) -> None:
        if words != self._said:  # once, not with every round
            _logger.warning("%s", words)
            self._said = words
