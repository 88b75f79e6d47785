"""The sampling fields of a request, under the names that generation engines use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.openai_api.fields import integer, number, strings

_READERS: dict[str, Callable[[str, object], Any]] = {
    "temperature": number,
    "top_p": number,
    "min_p": number,
    "top_k": integer,
    "seed": integer,
}
_LIMITS = (
    "max_completion_tokens",
    "max_tokens",
    "max_new_tokens",
)  # OpenAI's new and old name, Hugging Face's
_STOPS = ("stop", "stop_sequences")

SAMPLING_FIELDS = (*_READERS, *_LIMITS, *_STOPS)


def parse_sampling(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Read the sampling fields that were given.

    Types are checked here, ranges where the request enters an engine.

    Args:
        raw: A request; its other fields are not looked at.

    Returns:
        `temperature`, `top_k`, `top_p`, `min_p`, `seed`, `max_new_tokens` and `stop`, each only where given.

    Raises:
        InvalidInputError: A value of the wrong type, or synonyms with different values.
    """
    sampling = {name: read(name, raw[name]) for name, read in _READERS.items() if raw.get(name) is not None}
    if (limit := _limit(raw)) is not None:
        sampling["max_new_tokens"] = limit
    if stop := _stop(raw):
        sampling["stop"] = stop
    return sampling


def _limit(raw: Mapping[str, Any]) -> int | None:
    limits = {name: integer(name, raw[name]) for name in _LIMITS if raw.get(name) is not None}
    if len(set(limits.values())) > 1:
        given = " and ".join(f"{name}={value}" for name, value in limits.items())
        raise InvalidInputError(f"{given} mean the same and differ; give one of them.")
    return next(iter(limits.values()), None)


def _stop(raw: Mapping[str, Any]) -> tuple[str, ...]:
    given = [text for name in _STOPS if raw.get(name) is not None for text in strings(name, raw[name])]
    return tuple(dict.fromkeys(given))
