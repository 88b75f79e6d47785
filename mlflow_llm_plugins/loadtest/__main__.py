"""Send many requests to a server, and measure how fast it answers.

    python -m mlflow_llm_plugins.loadtest http://127.0.0.1:5001 --clients 16 --requests 64
    python -m mlflow_llm_plugins.loadtest http://127.0.0.1:8000 --model m --rate 4 --goodput ttft=0.5,tpot=0.1

The server is any that speaks OpenAI's API, or stock `mlflow models serve` (--path /invocations). Ctrl-C ends the load
and shows what was measured so far. Exit status: 0; 1 when no request succeeded; 2 for wrong options; 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from mlflow_llm_plugins.errors import InvalidInputError, LLMError
from mlflow_llm_plugins.loadtest.bodies import Prompt, read_prompts
from mlflow_llm_plugins.loadtest.requirements import require
from mlflow_llm_plugins.loadtest.results import LoadResult, RequestResult
from mlflow_llm_plugins.loadtest.run import LoadInterrupted, run_load
from mlflow_llm_plugins.loadtest.settings import Load, Objective, Target
from mlflow_llm_plugins.settings import Settings

PROGRAM = "python -m mlflow_llm_plugins.loadtest"
WIDTH = 100  # of the tables at least
INTERRUPTED = 130  # as shells have it: 128 + SIGINT

AnySettings = TypeVar("AnySettings", bound=Settings)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and give its exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="%(levelname)s: %(message)s")
    try:
        require("httpx", "rich", "tqdm")
        target, load = _parsed(Target, options), _parsed(Load, options)
        objective = _objective(options.goodput, target)
        prompts = None if options.prompts is None else read_prompts(options.prompts)
        _check_writable(options.save)
        result = _measured(target, load, prompts)
    except LLMError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2
    _report(result, objective, options.save)
    return INTERRUPTED if result.interrupted else int(not result.succeeded)


def _measured(target: Target, load: Load, prompts: list[Prompt] | None) -> LoadResult:
    from tqdm import tqdm

    with tqdm(total=load.requests, unit="request", disable=None) as bar:  # None: only on a terminal

        def count(result: RequestResult) -> None:
            bar.update()

        try:
            return run_load(target, load, prompts, on_result=count)
        except LoadInterrupted as interruption:
            return interruption.result


def _report(result: LoadResult, objective: Objective | None, path: Path | None) -> None:
    from rich.console import Console

    from mlflow_llm_plugins.loadtest.report import save, tables_of

    console = Console()
    console.width = max(console.width, WIDTH)
    console.print(tables_of(result, objective))
    if path is not None:
        save(result, path, objective)
        print(f"saved {path}")


def _check_writable(path: Path | None) -> None:
    """Before the load, which may take long."""
    try:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open("a").close()
    except OSError as error:
        raise InvalidInputError(f"--save {path} cannot be written: {error}") from error


def _objective(text: str | None, target: Target) -> Objective | None:
    objective = None if text is None else Objective.from_text(text)
    if objective is not None and not target.streams and objective.limits().keys() != {"e2el"}:
        raise InvalidInputError(f"goodput={text!r}: whole answers have no ttft and no tpot. Limit e2el alone.")
    return objective


def _parsed(settings: type[AnySettings], options: argparse.Namespace) -> AnySettings:
    """The settings, of those options that were given."""
    given = {name: value for name, value in vars(options).items() if name in settings.model_fields}
    return settings.parse(given, "options")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,  # defaults are those of the settings
    )
    _add_target(parser)
    _add_load(parser)
    _add_prompts(parser)
    parser.add_argument(
        "--goodput",
        metavar="LIMITS",
        default=None,
        help="count requests a second that keep all limits: ttft=0.5,tpot=0.1,e2el=5 (seconds)",
    )
    parser.add_argument("--save", type=Path, metavar="FILE", default=None, help="write figures and requests as JSON")
    return parser


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", help=_help(Target, "url"))
    parser.add_argument("--path", help=_help(Target, "path"))
    parser.add_argument("--model", help=_help(Target, "model"))
    parser.add_argument("--no-stream", dest="stream", action="store_false", help="ask for whole answers")
    parser.add_argument("--api-key-env", metavar="NAME", help=_help(Target, "api_key_env"))
    parser.add_argument("--timeout", dest="timeout_s", type=float, metavar="SECONDS", help=_help(Target, "timeout_s"))


def _add_load(parser: argparse.ArgumentParser) -> None:
    rhythm = parser.add_mutually_exclusive_group(required=True)
    rhythm.add_argument("--clients", type=int, metavar="N", help=_help(Load, "clients"))
    rhythm.add_argument("--rate", type=float, metavar="R", help=_help(Load, "rate"))
    for name in ("requests", "warmup", "max_tokens", "seed"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N", help=_help(Load, name))
    parser.add_argument("--ignore-eos", action="store_true", help=_help(Load, "ignore_eos"))
    parser.add_argument("--body", type=_json_object, metavar="JSON", help=_help(Load, "body"))


def _add_prompts(parser: argparse.ArgumentParser) -> None:
    prompts = parser.add_mutually_exclusive_group()
    prompts.add_argument("--prompt-words", type=int, metavar="N", help=_help(Load, "prompt_words"))
    prompts.add_argument("--prompt-tokens", type=int, metavar="N", help=_help(Load, "prompt_tokens"))
    prompts.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        default=None,
        help="prompts, one a line; in a .jsonl file JSON strings, or objects that are whole bodies",
    )


def _help(settings: type[Settings], name: str) -> str:
    field = settings.model_fields[name]
    text = (field.description or "").rstrip(".")
    return text if field.is_required() or not field.default else f"{text}; default {field.default}"


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"must be a JSON object, got {type(value).__name__}")
    return value


if __name__ == "__main__":
    sys.exit(main())
