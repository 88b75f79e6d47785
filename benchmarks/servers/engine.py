"""Our engine without HTTP: what it can do at a load is what serving may at best leave of it."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.served.loads import Answers, ServedLoad
from benchmarks.servers.contender import Task, Turn
from benchmarks.servers.process import running
from mlflow_llm_plugins.loadtest import LoadResult, RequestResult, Target

DEADLINE_S = 3600.0
NOWHERE = Target(url="http://in.process")  # a result names an address


@dataclass(frozen=True, slots=True)
class Engine:
    """The artifact of `ours`, loaded in a child process and asked through the engine's own interface."""

    artifact: str = "ours"
    answers: tuple[Answers, ...] = ("streams",)

    def missing(self) -> str:
        """It is there where the benchmark is."""
        return ""

    def versions(self) -> str:
        """All is in this environment."""
        return ""

    def run(self, turn: Turn) -> None:
        """One child for all loads; it is done with them before any result is read."""
        task = turn.task
        job, results = task.logs / "engine_job.json", task.logs / "engine_results.json"
        job.write_text(json.dumps(self._job(task)), encoding="utf-8")
        command = [sys.executable, "-m", "benchmarks.servers.in_process", str(job), str(results)]
        with running(command, task.logs / "engine.log") as child:
            try:
                child.wait(DEADLINE_S)
            finally:
                turn.peak_bytes = child.peak_bytes
        for load, found in zip(task.loads, json.loads(results.read_text(encoding="utf-8")), strict=True):
            turn.results[load] = _result(load, found)

    def _job(self, task: Task) -> dict[str, object]:
        loads = [{**asdict(load), "texts": task.wording.prompts(load)} for load in task.loads]
        return {"artifact": str(task.artifacts / self.artifact), "warm_up": list(task.warm_up()), "loads": loads}


def _result(load: ServedLoad, found: dict[str, Any]) -> LoadResult:
    answered = [RequestResult(**{**request, "gaps_s": tuple(request["gaps_s"])}) for request in found["requests"]]
    no_generator = 0.0  # seconds of CPU time
    return LoadResult(NOWHERE, load.as_load(ignore_eos=True), tuple(answered), found["date"], no_generator)
