"""The bodies of the requests, encoded before the clock starts: prompts made up from a seed, given, or read."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.loadtest.routes import Body
from mlflow_llm_plugins.loadtest.settings import Load, Target

Prompt: TypeAlias = str | list[int] | Body  # text, token ids, or a body that has its own prompt

_COMMON = """
time year people way day man thing woman life child world school state family group country problem hand part place
case week company system program question work number night point home water room mother area money story fact month
lot right study book eye job word business issue side kind head house service friend father power hour
"""
WORDS = _COMMON.split()
# These are in every vocabulary; special tokens mostly come before them or at its end.
TOKEN_IDS = range(16, 256)
_OURS = {"stream", "stream_options"}


def request_bodies(target: Target, load: Load, prompts: Sequence[Prompt] | None = None) -> list[bytes]:
    """Encode `load.requests` bodies, and `load.warmup` more at the end.

    Args:
        target: For its route, its model, and whether it streams.
        load: Its `body` goes over what a body among the prompts says, which goes over the other settings.
        prompts: Used in turn, from the start again when they run out; None: made up from the seed, random from their
            first word, so that a cache of prefixes hardly helps.

    Raises:
        InvalidInputError: No prompts, prompts that the route does not take, or a field that is set otherwise.
    """
    if _OURS & load.body.keys():
        raise InvalidInputError(f"body must not have {' or '.join(sorted(_OURS))}: the target's stream sets them.")
    if prompts is not None and not prompts:
        raise InvalidInputError("There are no prompts: give at least one.")
    chosen = made_up(load) if prompts is None else itertools.cycle(prompts)
    options = _options(target, load)
    bodies = (
        {**options, **_written(target, prompt), **load.body, **_stream_fields(target)}
        for prompt in itertools.islice(chosen, load.requests + load.warmup)
    )
    return [json.dumps(body).encode() for body in bodies]


def made_up(load: Load) -> Iterator[str | list[int]]:
    """Random prompts without end, the same for the same seed."""
    draw = random.Random(f"prompts {load.seed}")
    while True:
        if load.prompt_tokens is None:
            yield " ".join(draw.choices(WORDS, k=load.prompt_words))
        else:
            yield draw.choices(TOKEN_IDS, k=load.prompt_tokens)


def read_prompts(path: Path) -> list[Prompt]:
    """Read a file of prompts, one a line; empty lines count for nothing.

    In a `.jsonl` file each line is JSON: a string is a prompt (so it may have several lines), an object a whole body.

    Raises:
        InvalidInputError: The file cannot be read, is empty, or has a line of another kind.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"The prompts {str(path)!r} cannot be read: {error}") from error
    read = _json_prompt if path.suffix == ".jsonl" else _text_prompt
    prompts = [read(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise InvalidInputError(f"The prompts {str(path)!r} are empty: write one a line.")
    return prompts


def _text_prompt(line: str, where: str) -> Prompt:
    return line.removesuffix("\r")


def _json_prompt(line: str, where: str) -> Prompt:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise InvalidInputError(f"{where} is not JSON: {error}") from error
    if not isinstance(value, str | dict):
        raise InvalidInputError(f"{where} must be a string or an object, got {type(value).__name__}.")
    return value


def _written(target: Target, prompt: Prompt) -> Body:
    if isinstance(prompt, dict):
        return prompt
    if isinstance(prompt, list) and not target.route.takes_token_ids:
        raise InvalidInputError(
            f"{target.path} takes no token ids: leave prompt_tokens out, or use a path that ends in /v1/completions."
        )
    return target.route.prompt(prompt)


def _options(target: Target, load: Load) -> Body:
    options: dict[str, Any] = {"max_tokens": load.max_tokens}
    if target.model is not None:
        options["model"] = target.model
    if load.ignore_eos:  # else left out: many servers refuse fields that they do not know
        options["ignore_eos"] = True
    return options


def _stream_fields(target: Target) -> Body:
    return {"stream": True, "stream_options": {"include_usage": True}} if target.streams else {}
