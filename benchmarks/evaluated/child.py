"""One measurement in this process: `python -m benchmarks.evaluated.child JOB RESULT`, both JSON files."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.evaluated.evaluators import evaluate
from benchmarks.evaluated.job import Job, Result
from benchmarks.evaluated.judges import judge

PERFORMERS: dict[str, Callable[[Job], Result]] = {"evaluator": evaluate, "judge": judge}


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that it ends what it started
    job = Job.read(Path(sys.argv[1]))
    PERFORMERS[job.what](job).write(Path(sys.argv[2]))


if __name__ == "__main__":
    main()
