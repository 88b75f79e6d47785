"""The options of the evaluation's benchmark."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.evaluated.evaluators import EVALUATORS
from benchmarks.evaluated.judges import JUDGES
from benchmarks.served.options import listed, one_of, positive

MODELS = ("tiny", "40m")
WHAT = ("evaluator", "judge")
NAMES = (*EVALUATORS, *JUDGES)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Defaults that say how much is measured."""

    models: Sequence[str]
    rows: int
    max_tokens: int
    runs: int


FULL = Sizes(["40m"], rows=200, max_tokens=32, runs=3)
QUICK = Sizes(["tiny"], rows=6, max_tokens=8, runs=1)


def parse_arguments(description: str | None, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """What was given, over `QUICK` or `FULL`."""
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--what", type=listed(one_of(WHAT)), default=list(WHAT), help="evaluator, judge; default both")
    parser.add_argument("--models", type=listed(one_of(MODELS)), help=f"of {', '.join(MODELS)}; default 40m")
    parser.add_argument("--rows", type=positive(int), help="that are evaluated or judged; default 200")
    parser.add_argument("--max-tokens", type=positive(int), help="of an answer that is evaluated; default 32")
    parser.add_argument("--runs", type=positive(int), help="fresh processes of each contender; default 3")
    parser.add_argument(
        "--contenders", type=listed(one_of(NAMES)), default=list(NAMES), help=f"of {', '.join(NAMES)}; default all"
    )
    results = Path(__file__).parents[1] / "results"
    parser.add_argument("--output", type=Path, default=results, help="folder of CSV and PNG")
    parser.add_argument("--quick", action="store_true", default=False, help="little of all, to see that it runs")
    given = parser.parse_args(arguments)
    sizes = QUICK if given.quick else FULL
    return argparse.Namespace(**{name: getattr(sizes, name) for name in Sizes.__slots__} | vars(given))
