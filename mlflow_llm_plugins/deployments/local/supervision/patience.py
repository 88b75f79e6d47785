"""How long a supervisor waits, for what no setting of a deployment says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds and counts."""

    status_every_s: float = 1.0  # until the status file is looked at again
    health_every_s: float = 5.0
    probe_s: float = 5.0  # for an answer, which is late where much is to do
    misses: int = 3  # probes without an answer until the server is unhealthy
    deaths: int = 3  # answers that the engine is dead until the server is replaced
    unhealthy_s: float = 60.0  # until an unhealthy server is replaced
    row_ends_after_s: float = 300.0  # without a crash, the next one is the first again
    longest_backoff_s: float = 60.0
    polite_s: float = 3.0  # for clients to leave kept connections, before the server closes them
    connection_s: float = 30.0  # for a new connection to wait for a server
