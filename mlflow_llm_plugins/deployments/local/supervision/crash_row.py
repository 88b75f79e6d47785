"""Crashes in a row: how long to wait after each, and when there were too many."""

from __future__ import annotations

import time

from mlflow_llm_plugins.deployments.local.supervision.patience import Patience
from mlflow_llm_plugins.deployments.settings import DeploymentConfig

_MAX_DOUBLINGS = 30


class CrashRow:
    """Counts; a server that ran for long ends the row."""

    def __init__(self, settings: DeploymentConfig, patience: Patience) -> None:
        """Begin without any."""
        self._settings = settings
        self._patience = patience
        self._ready_at: float | None = None
        self.length = 0

    def note_ready(self) -> None:
        """The server takes requests from now on."""
        self._ready_at = time.monotonic()

    def add(self) -> None:
        """The server crashed, or could not be started again."""
        if self._ready_at is not None and time.monotonic() - self._ready_at >= self._patience.row_ends_after_s:
            self.length = 0
        self._ready_at = None
        self.length += 1

    @property
    def is_too_long(self) -> bool:
        """Whether there were more than the deployment allows."""
        return self.length > self._settings.max_restarts

    @property
    def backoff_s(self) -> float:
        """Seconds to wait before the next start."""
        doublings = min(self.length - 1, _MAX_DOUBLINGS)
        return min(self._settings.restart_backoff_s * 2.0**doublings, self._patience.longest_backoff_s)
