"""Who is measured when: contenders take turns, each in a fresh process."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import track

from benchmarks.evaluated.evaluators import ENVIRONMENTS, EVALUATORS, LOADS
from benchmarks.evaluated.job import Job, Result
from benchmarks.evaluated.judges import JUDGES
from benchmarks.servers.process import ServerError, running

ARTIFACT = "ours"  # of ARTIFACTS of the servers
SAVING_S = 900.0
DEADLINE_S = 3600.0
INTERRUPTED = 128 + signal.SIGINT  # exit status, as shells have it

Key = tuple[str, str]  # load, contender


@dataclass(slots=True)
class Turns:
    """What is to be done for one table, and what came of it."""

    what: str
    jobs: Mapping[Key, Job]
    runs: int
    results: dict[Key, list[Result]] = field(default_factory=dict)
    is_whole: bool = True

    @classmethod
    def of(cls, what: str, model: str, options: argparse.Namespace, artifacts: Path) -> Turns:
        """Those of the chosen contenders.

        Args:
            what: A key of PERFORMERS of `child`.
            model: A key of SHAPES.
            options: From `parse_arguments`.
            artifacts: Folder of the model that is evaluated.
        """
        table, loads = (EVALUATORS, LOADS) if what == "evaluator" else (JUDGES, ("",))
        artifact = str(artifacts / ARTIFACT) if what == "evaluator" else ""
        return cls(
            what,
            {
                (load, name): Job(what, name, load, model, options.rows, options.max_tokens, artifact)
                for load in loads
                for name in options.contenders
                if name in table
            },
            options.runs,
        )

    def take(self, folder: Path) -> None:
        """Fill the results; a contender that failed once on a load is not asked again. Ctrl-C ends it early."""
        try:
            for key in track(list(self._order()), description=self.what, console=Console(stderr=True)):
                found = self.results.setdefault(key, [])
                if not any(result.failure for result in found):
                    found.append(perform(self.jobs[key], folder))
        except KeyboardInterrupt:
            self.is_whole = False
            print("interrupted; what was measured so far:", file=sys.stderr)

    def _order(self) -> Iterator[Key]:
        """Reversed from run to run."""
        for run in range(self.runs):
            yield from reversed(self.jobs) if run % 2 else self.jobs


def perform(job: Job, folder: Path) -> Result:
    """The result of a fresh process; what cannot be measured is its failure."""
    answer = folder / "result.json"
    answer.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.evaluated.child", str(job.write(folder / "job.json")), str(answer)]
    environment = ENVIRONMENTS.get(job.contender, {}) if job.what == "evaluator" else {}
    try:
        with running(command, folder / f"{job.contender}.log", environment) as child:
            child.wait(DEADLINE_S)
    except ServerError as error:
        return Result(failure=str(error))
    return Result.read(answer)


def save_artifact(model: str, folder: Path) -> None:
    """Write the model that is evaluated, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.servers.artifacts", ARTIFACT, model, str(folder)]
    with running(command, folder / "save.log") as child:
        child.wait(SAVING_S)
