"""Engines without HTTP: what one can do at a load is what serving may at best leave of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

from benchmarks.served.loads import Answers, ServedLoad
from benchmarks.servers.contender import Task, Turn
from benchmarks.servers.http_server import longest, most_clients
from benchmarks.servers.process import running
from mlflow_llm_plugins.loadtest import LoadResult, RequestResult, Target

DEADLINE_S = 3600.0
NOWHERE = Target(url="http://in.process")  # a result names an address


@dataclass(frozen=True, slots=True)
class Engine:
    """An artifact, loaded in a child process and asked there: through our engine, or the library below it."""

    artifact: str = "ours"
    asked: str = "ours"  # a key of ENGINES of `in_process`
    needs: str = "torch"  # module
    answers: tuple[Answers, ...] = ("streams",)

    def missing(self) -> str:
        """Looks for the library."""
        return "" if find_spec(self.needs) else f"{self.needs} is not installed"

    def versions(self) -> str:
        """All is in this environment."""
        return ""

    def run(self, turn: Turn) -> None:
        """One child for all loads; it is done with them before any result is read."""
        task = turn.task
        name = f"{self.asked}_{self.artifact}"
        job, results = task.logs / f"{name}_job.json", task.logs / f"{name}_results.json"
        job.write_text(json.dumps(self._job(task)), encoding="utf-8")
        command = [sys.executable, "-m", "benchmarks.servers.in_process", str(job), str(results)]
        with running(command, task.logs / f"{name}.log", task.environment) as child:
            try:
                child.wait(DEADLINE_S)
            finally:
                turn.peak_bytes = child.peak_bytes
        turn.results.update(_results(task, json.loads(results.read_text(encoding="utf-8"))))

    def _job(self, task: Task) -> dict[str, object]:
        loads = [{**asdict(load), "chats": task.wording.prompts(load)} for load in task.loads]
        return {
            "engine": self.asked,
            "artifact": str(task.artifacts / self.artifact),
            "rows": most_clients(task.loads),
            "longest": longest(task),
            "warm_up": list(task.warm_up()),
            "loads": loads,
        }


def _results(task: Task, found: list[Mapping[str, Any]]) -> Iterator[tuple[ServedLoad, LoadResult]]:
    no_generator = 0.0  # seconds of CPU time
    for load, answered in zip(task.loads, found, strict=True):
        requests = (RequestResult(**{**each, "gaps_s": tuple(each["gaps_s"])}) for each in answered["requests"])
        yield load, LoadResult(NOWHERE, load.as_load(True), tuple(requests), answered["date"], no_generator)
