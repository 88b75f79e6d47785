"""What a request that says nothing gets: the model's generation_config, else greedy.

A request's own values come first. Keys are transformers' `GenerationConfig`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mlflow_llm_plugins.errors import UnsupportedFeatureError
from mlflow_llm_plugins.openai_api.fields import boolean, integer, named, number, present, strings
from mlflow_llm_plugins.openai_api.parameters import UNSUPPORTED_IN_CONFIG, is_neutral

_DRAWING = {"top_k": integer, "top_p": number, "min_p": number}
_ALWAYS = {  # greedy or not
    "min_new_tokens": integer,
    "repetition_penalty": number,
    "no_repeat_ngram_size": integer,
}
_ALL_TOKENS = {"top_k": 0, "top_p": 1, "min_p": 0}  # the values that drop no token


def sampling_defaults(generation_config: Mapping[str, Any]) -> dict[str, Any]:
    """The sampling fields that a generation_config sets, under the names that engines use.

    Args:
        generation_config: As in generation_config.json. Without `do_sample` it is greedy, as in transformers.
            Keys that cannot be honoured are left out; `unhonoured` tells which.

    Raises:
        InvalidInputError: A value of the wrong type.
    """
    config = present(generation_config)
    defaults: dict[str, Any] = {"temperature": 0.0}
    if "do_sample" in config and boolean("generation_config.do_sample", config["do_sample"]):
        defaults["temperature"] = number("generation_config.temperature", config.get("temperature", 1.0))
        defaults |= _read(config, _DRAWING)
    defaults |= _read(config, _ALWAYS)
    if "max_new_tokens" in config:
        defaults["default_new_tokens"] = integer("generation_config.max_new_tokens", config["max_new_tokens"])
    if "stop_strings" in config:
        defaults["stop"] = strings("generation_config.stop_strings", config["stop_strings"])
    return defaults


def _read(config: Mapping[str, Any], readers: Mapping[str, Callable[[str, object], Any]]) -> dict[str, Any]:
    return {key: read(f"generation_config.{key}", config[key]) for key, read in readers.items() if key in config}


def with_defaults(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A request's sampling fields, completed by the defaults.

    Temperature 0 is greedy whatever else the defaults say. A request that asks for top_k, top_p or min_p but
    no temperature wants tokens drawn: where the default is greedy, its temperature is 1. A request that wants fewer
    tokens than the default of `min_new_tokens` gets as many as it wants.
    """
    merged = {**defaults, **given}
    if "max_new_tokens" in given:
        merged.pop("default_new_tokens", None)
        if "min_new_tokens" in defaults and "min_new_tokens" not in given:
            merged["min_new_tokens"] = min(defaults["min_new_tokens"], given["max_new_tokens"])
    asks_for_draws = any(given.get(name, neutral) != neutral for name, neutral in _ALL_TOKENS.items())
    if "temperature" not in given and asks_for_draws and not defaults.get("temperature"):
        merged["temperature"] = 1.0
    return merged


def unhonoured(generation_config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that would change answers but that no engine here can honour, with their values."""
    return {
        key: generation_config[key]
        for key, neutral in UNSUPPORTED_IN_CONFIG.items()
        if key in generation_config and not is_neutral(generation_config[key], neutral)
    }


def check_generation_config(generation_config: Mapping[str, Any]) -> None:
    """Refuse request defaults, written by a user, that would not do what they say.

    A checkpoint's own file is not held to this: a value that no engine here knows must not keep it from loading.

    Raises:
        UnsupportedFeatureError: Names every key that cannot be honoured.
        InvalidInputError: A value of the wrong type.
    """
    if refused := unhonoured(generation_config):
        raise UnsupportedFeatureError(
            f"generation_config: {named(refused)} {'is' if len(refused) == 1 else 'are'} not supported by this "
            f"engine; leave {'it' if len(refused) == 1 else 'them'} out."
        )
    sampling_defaults(generation_config)
