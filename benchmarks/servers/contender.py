"""What a contender is asked for: one turn, in which fresh processes answer every load."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from benchmarks.served.loads import Answers, Chat, ServedLoad, Wording
from benchmarks.servers.artifacts import CHECKPOINT, WORDING, export_cache
from mlflow_llm_plugins.loadtest import Distribution, LoadResult

WARM_UP_REQUESTS = 4


@dataclass(frozen=True, slots=True)
class Task:
    """What a turn is for."""

    artifacts: Path  # folder of all of them
    logs: Path  # folder
    loads: tuple[ServedLoad, ...]

    @property
    def wording(self) -> Wording:
        return Wording.read(self.artifacts / CHECKPOINT / WORDING)

    @property
    def environment(self) -> dict[str, str]:
        """Of whatever opens an artifact: exports are kept with the artifacts, and not with the user's."""
        return export_cache(self.artifacts)

    def warm_up(self) -> Iterator[Chat]:
        """Prompts of each length, to be answered before anything is measured."""
        for length in dict.fromkeys(load.prompts for load in self.loads):
            yield from self.wording.warm_up(length, WARM_UP_REQUESTS)


@dataclass(slots=True)
class Turn:
    """What came of a task; a contender fills it while it runs, so that what it measured before a failure counts."""

    task: Task
    results: dict[ServedLoad, LoadResult] = field(default_factory=dict)
    health: dict[ServedLoad, Distribution | None] = field(default_factory=dict)  # seconds until GET /health answers
    peak_bytes: int = 0  # resident, of all processes that it started together
    failure: str = ""


class Contender(Protocol):
    @property
    def artifact(self) -> str:
        """A key of ARTIFACTS."""

    @property
    def answers(self) -> Sequence[Answers]:
        """The kinds that it can give."""

    def missing(self) -> str:
        """Why it cannot run here; empty: it can."""

    def versions(self) -> str:
        """Of what runs in an environment of its own; empty: all is in this one."""

    def run(self, turn: Turn) -> None:
        """Answer the loads of its task.

        Raises:
            ServerError: It cannot go on.
        """
