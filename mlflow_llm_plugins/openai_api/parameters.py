"""What engines cannot do yet: parameters of requests and keys of a generation_config.

A parameter that cannot be honoured is refused by name, never ignored, unless its value asks for what happens
anyway. When an engine learns one, its row goes from here to where it is read.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from itertools import islice
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError, UnsupportedFeatureError
from mlflow_llm_plugins.openai_api.fields import shown

Neutral = tuple[Any, ...]  # the values of a parameter that ask for nothing; null always does

UNSUPPORTED: dict[str, Neutral] = {
    # what is returned
    "prompt_logprobs": (),
    "suffix": ("",),
    "best_of": (1,),
    "audio": (),
    "modalities": ([], ["text"]),
    # which tokens are drawn
    "typical_p": (1,),
    "bad_words": ([],),
    "allowed_token_ids": ([],),
    "do_sample": (),
    "num_beams": (1,),
    "use_beam_search": (False,),
    "length_penalty": (1,),
    # when it ends
    "max_length": (),
    # what it must look like
    "structured_outputs": ({},),
    "guided_json": ("", {}),
    "guided_regex": ("",),
    "guided_choice": ([],),
    "guided_grammar": ("",),
    # what the prompt is made of
    "functions": ([],),
    "function_call": ("none", "auto"),
    "documents": ([],),
    "chat_template": (),
    "continue_final_message": (False,),
    "add_generation_prompt": (True,),
    "truncate_prompt_tokens": (),
    "verbosity": (),
    "web_search_options": (),
    # how text is made of tokens
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "include_stop_str_in_output": (False,),
    "detokenize": (True,),
    "return_token_ids": (False,),
}

# What one kind of request reads, and the others refuse.
OF_SOME_REQUESTS: dict[str, Neutral] = {
    "logprobs": (False,),
    "top_logprobs": (0,),
    "echo": (False,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "reasoning_effort": (),
}

UNSUPPORTED_IN_CONFIG: dict[str, Neutral] = {
    "encoder_repetition_penalty": (1,),
    "encoder_no_repeat_ngram_size": (0,),
    "typical_p": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "top_h": (),
    "penalty_alpha": (),
    "dola_layers": (),
    "guidance_scale": (1,),
    "watermarking_config": (),
    "sequence_bias": ({}, []),
    "bad_words_ids": ([],),
    "force_words_ids": ([],),
    "constraints": ([],),
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "exponential_decay_length_penalty": (),
    "min_length": (0,),
    "max_time": (),
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "diversity_penalty": (0,),
    "num_return_sequences": (1,),
}

# Sent by OpenAI's clients and others; the answer is the same with and without them.
WITHOUT_EFFECT = frozenset(
    {
        "metadata",
        "model",
        "prediction",
        "priority",
        "prompt_cache_key",
        "prompt_cache_retention",
        "request_id",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)

_NEAR = 0.85  # similarity from which an unknown name is taken for a misspelt one, not for somebody's extra field
_COMPARED = 50  # unknown names, since each comparison takes long
_LONGEST_NAME = 40  # characters that a misspelt one may have


def check_parameters(raw: Mapping[str, Any], known: Collection[str], own: Mapping[str, Neutral] | None = None) -> None:
    """Refuse what cannot be honoured and what looks misspelt; other unknown fields are left alone.

    Args:
        raw: The request.
        known: The fields that the caller reads.
        own: What this kind of request cannot honour beside, or has other neutral values for.

    Raises:
        UnsupportedFeatureError: Names every parameter that this engine does not support.
        InvalidInputError: A field that is nearly, but not quite, a parameter.
    """
    unsupported = {**UNSUPPORTED_IN_CONFIG, **UNSUPPORTED, **(own or {})}
    _refuse("not supported by this engine", raw, unsupported, known)
    _refuse("not supported by this engine in this kind of request", raw, OF_SOME_REQUESTS, known)
    parameters = {*known, *unsupported, *OF_SOME_REQUESTS}
    accepted = parameters | WITHOUT_EFFECT
    unknown = (name for name in raw if len(name) <= _LONGEST_NAME and name not in accepted)
    for name in sorted(islice(unknown, _COMPARED)):
        _refuse_misspelt(name, parameters)


def _refuse(reason: str, raw: Mapping[str, Any], parameters: Mapping[str, Neutral], known: Collection[str]) -> None:
    refused = {
        name: raw[name]
        for name, neutral in parameters.items()
        if name in raw and name not in known and not is_neutral(raw[name], neutral)
    }
    if refused:
        verb, pronoun = ("is", "it") if len(refused) == 1 else ("are", "them")
        raise UnsupportedFeatureError(
            f"{_told(refused)} {verb} {reason}; leave {pronoun} out.", param=next(iter(refused))
        )


def _told(refused: Mapping[str, Any]) -> str:
    """Names with their values, but of texts, lists and objects, which may be a part of the prompt."""
    plain = (bool, int, float)
    return ", ".join(f"{name}={value}" if isinstance(value, plain) else name for name, value in refused.items())


def is_neutral(value: object, neutral: Neutral) -> bool:
    """Whether the value asks for nothing."""
    if value is None:
        return True
    # False == 0 in Python, but logprobs=0 asks for something and logprobs=False does not.
    return any(value == asks and isinstance(value, bool) == isinstance(asks, bool) for asks in neutral)


def _refuse_misspelt(name: str, parameters: Collection[str]) -> None:
    plain = name.lower().replace("-", "_")
    if near := difflib.get_close_matches(plain, parameters, n=1, cutoff=_NEAR):
        raise InvalidInputError(f"Unknown field {shown(name)}. Did you mean {near[0]!r}?", param=name)
