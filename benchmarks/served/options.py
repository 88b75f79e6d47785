"""The options of the servers' benchmark."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from benchmarks.models import SHAPES
from benchmarks.served.loads import ANSWERS, SHARED, SHORT
from benchmarks.servers import NAMES, OURS, USUAL
from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.loadtest import Objective

Value = TypeVar("Value")
Number = TypeVar("Number", int, float)

MODELS = [name for name, shape in SHAPES.items() if not shape.cuda_only]
FEWEST_TOKENS = 50  # of a prompt; the chat template takes half of them


@dataclass(frozen=True, slots=True)
class Sizes:
    """Defaults that say how much is measured."""

    models: Sequence[str]
    clients: Sequence[int]
    prompts: Sequence[str]
    rate: float  # requests a second; 0: no open loop
    runs: int
    requests: int | None


FULL = Sizes(["40m"], [1, 4, 8, 16, 32], [SHORT, "500"], rate=2.0, runs=3, requests=None)
QUICK = Sizes(["tiny"], [2], [SHORT, "100"], rate=8.0, runs=1, requests=4)


def parse_arguments(description: str | None) -> argparse.Namespace:
    """What was given, over `QUICK` or `FULL`; `objective` is what `goodput` says."""
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    _add_sizes(parser)
    _add_contenders(parser)
    parser.add_argument("--goodput", default="ttft=1,tpot=0.1", help="limits in seconds; default ttft=1,tpot=0.1")
    results = Path(__file__).parents[1] / "results"
    parser.add_argument("--output", type=Path, default=results, help="folder of CSV and PNG")
    parser.add_argument("--label", type=label, default=None, help="ends the names of the files, to keep several runs")
    parser.add_argument("--quick", action="store_true", default=False, help="little of all, to see that it runs")
    given = parser.parse_args()
    sizes = QUICK if given.quick else FULL
    defaults = {name: getattr(sizes, name) for name in Sizes.__slots__}
    try:
        objective = Objective.from_text(given.goodput)
    except InvalidInputError as error:
        parser.error(str(error))
    options = argparse.Namespace(**{**defaults, **vars(given), "objective": objective})
    if options.baseline not in (OURS, *options.contenders):
        parser.error(f"--baseline {options.baseline} is none of --contenders: {', '.join(options.contenders)}")
    return options


def _add_sizes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", type=listed(one_of(MODELS)), help=f"of {', '.join(MODELS)}; default 40m")
    parser.add_argument("--clients", type=listed(positive(int)), help="of the closed loops; default 1,4,8,16,32")
    parser.add_argument(
        "--prompts", type=listed(length_of_prompts), help="short, shared, or numbers of tokens; default short,500"
    )
    parser.add_argument(
        "--rate", type=not_negative, help="of the open loop, requests a second, for all; 0: none; default 2"
    )
    parser.add_argument("--answers", type=listed(one_of(ANSWERS)), default=list(ANSWERS), help="default streams,whole")
    parser.add_argument("--requests", type=positive(int), help="of each load; default 4 a client, at least 16")
    parser.add_argument("--runs", type=positive(int), help="turns of each contender; default 3")


def _add_contenders(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--contenders",
        type=listed(one_of(NAMES)),
        default=list(USUAL),
        help=f"of {', '.join(NAMES)}; default {','.join(USUAL)}",
    )
    parser.add_argument("--baseline", type=one_of(NAMES), default=OURS, help="that ratios are to; default ours")
    for option, program, environment in (
        ("--transformers-serve", "transformers", "transformers[serving]"),
        ("--vllm", "vllm", "vllm"),
    ):
        parser.add_argument(
            option,
            type=Path,
            default=Path(sys.executable).parent / program,
            metavar="PATH",
            help=f"the executable `{program}` of an environment with {environment}; default: of this one",
        )


def listed(read: Callable[[str], Value]) -> Callable[[str], list[Value]]:
    """Several values with commas between them."""

    def values(text: str) -> list[Value]:
        return [read(value.strip()) for value in text.split(",")]

    return values


def one_of(allowed: Sequence[str]) -> Callable[[str], str]:
    """A name among others."""

    def name(text: str) -> str:
        if text not in allowed:
            raise argparse.ArgumentTypeError(f"must be of {', '.join(allowed)}, got {text!r}")
        return text

    return name


def positive(kind: Callable[[str], Number]) -> Callable[[str], Number]:
    """A number above 0."""

    def number(text: str) -> Number:
        value = kind(text)
        if value <= 0:
            raise argparse.ArgumentTypeError(f"must be above 0, got {text!r}")
        return value

    return number


def label(text: str) -> str:
    """A part of a file's name."""
    if not text.replace("-", "").isalnum():
        raise argparse.ArgumentTypeError(f"must be of letters, digits and hyphens, got {text!r}")
    return text


def not_negative(text: str) -> float:
    """A number of at least 0."""
    value = float(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, got {text!r}")
    return value


def length_of_prompts(text: str) -> str:
    """`SHORT`, `SHARED`, or a number of tokens."""
    if text not in (SHORT, SHARED) and not (text.isdecimal() and int(text) >= FEWEST_TOKENS):
        raise argparse.ArgumentTypeError(
            f"must be {SHORT!r}, {SHARED!r} or at least {FEWEST_TOKENS} tokens, got {text!r}"
        )
    return text
