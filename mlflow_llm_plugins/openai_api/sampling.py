"""The sampling fields of a request, under the names that generation engines use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.openai_api.constraints import CONSTRAINT_FIELDS, parse_constraint
from mlflow_llm_plugins.openai_api.fields import boolean, integer, integers, number, strings, wrong


def _token_bias(name: str, value: object) -> dict[int, float]:
    """JSON has only strings for keys; a caller in Python may give whole numbers."""
    if not isinstance(value, Mapping) or not all(_is_token_id(key) for key in value):
        raise wrong(name, "an object from token ids to numbers", value)
    return {int(key): number(f"{name}[{key}]", bias) for key, bias in value.items()}


def _is_token_id(key: object) -> bool:
    if isinstance(key, str):
        return key.isascii() and key.isdecimal() and len(key) < 20
    return isinstance(key, int) and not isinstance(key, bool)


_READERS: dict[str, Callable[[str, object], Any]] = {
    "temperature": number,
    "top_p": number,
    "min_p": number,
    "top_k": integer,
    "seed": integer,
    "repetition_penalty": number,
    "frequency_penalty": number,
    "presence_penalty": number,
    "no_repeat_ngram_size": integer,
    "logit_bias": _token_bias,
    "stop_token_ids": integers,
}
_LIMITS = (
    "max_completion_tokens",
    "max_tokens",
    "max_new_tokens",
)  # OpenAI's new and old name, Hugging Face's
_LEAST = ("min_tokens", "min_new_tokens")  # vLLM's name, Hugging Face's
_STOPS = ("stop", "stop_sequences")

SAMPLING_FIELDS = (*_READERS, *_LIMITS, *_LEAST, *_STOPS, "ignore_eos", *CONSTRAINT_FIELDS)


def parse_sampling(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Read the sampling fields that were given.

    Types are checked here, ranges where the request enters an engine.

    Args:
        raw: A request; its other fields are not looked at.

    Returns:
        Only what was given, under the names of a generation request; `constraint` is an `AnswerForm`.

    Raises:
        InvalidInputError: A value of the wrong type, synonyms with different values, or several constraints.
    """
    sampling = {name: read(name, raw[name]) for name, read in _READERS.items() if raw.get(name) is not None}
    for target, synonyms in (("max_new_tokens", _LIMITS), ("min_new_tokens", _LEAST)):
        if (tokens := _tokens(raw, synonyms)) is not None:
            sampling[target] = tokens
    if stop := _stop(raw):
        sampling["stop"] = stop
    if raw.get("ignore_eos") is not None and boolean("ignore_eos", raw["ignore_eos"]):
        sampling["eos_token_ids"] = ()
    if (constraint := parse_constraint(raw)) is not None:
        sampling["constraint"] = constraint
    return sampling


def check_limit(raw: Mapping[str, Any], sampling: Mapping[str, Any]) -> None:
    """Refuse an answer of no tokens, where that makes no sense, under the name that the limit was given by.

    Args:
        raw: The request.
        sampling: What `parse_sampling` has read of it.
    """
    if sampling.get("max_new_tokens") == 0:
        raise wrong(next(name for name in _LIMITS if raw.get(name) is not None), "at least 1", 0)


def _tokens(raw: Mapping[str, Any], synonyms: Sequence[str]) -> int | None:
    limits = {name: integer(name, raw[name]) for name in synonyms if raw.get(name) is not None}
    for name, value in limits.items():
        if value < 0:
            raise wrong(name, "at least 1" if synonyms is _LIMITS else "at least 0", value)
    if len(set(limits.values())) > 1:
        given = " and ".join(f"{name}={value}" for name, value in limits.items())
        raise InvalidInputError(f"{given} mean the same and differ; give one of them.")
    return next(iter(limits.values()), None)


def _stop(raw: Mapping[str, Any]) -> tuple[str, ...]:
    given = [text for name in _STOPS if raw.get(name) is not None for text in strings(name, raw[name])]
    return tuple(dict.fromkeys(given))
