"""A request as the library takes it: fields of its GenerationConfig, as plain values that a process can be sent.

Checked against transformers' `generate` by experiment (openvino-genai 2026.4.1): the repetition penalty is over prompt
and answer, the other penalties over the answer and after it (and with the wrong sign where a logit is below 0, see
`limits`); then temperature, top_k, top_p of what top_k left, min_p.
Log-probabilities are those of the raw logits, with all of these and with a constraint.
"""

from __future__ import annotations

import random
from typing import Any

from mlflow_llm_plugins.generation.admission import AdmittedRequest
from mlflow_llm_plugins.generation.openvino.generation_config import STRUCTURED_OUTPUT
from mlflow_llm_plugins.generation.openvino.prover.forms import as_library_form
from mlflow_llm_plugins.generation.requests import GenerationRequest

TOP_P_CANDIDATES = 1000
_GREEDY_BELOW = 1e-5  # a temperature that leaves no choice, and that overflows what is divided by it
_HIGHEST_MIN_P = 1 - 2**-24  # the library refuses 1, which keeps those as probable as the best one
_LARGEST_TOP_K = 2**31 - 1  # more than any vocabulary; the library takes no number beyond 64 bits
_SEED_BITS = 32  # the library's generator uses no more
_SEEDS = 2**64  # of `random.Random`, which takes -1 for 1


def request_fields(request: AdmittedRequest) -> dict[str, Any]:
    """The fields of one request; `generation_config` makes the library's object of them.

    Stop strings are not among them: the stream looks for those.
    """
    options = request.options
    fields: dict[str, Any] = {
        "max_new_tokens": request.max_new_tokens,
        "repetition_penalty": float(options.repetition_penalty),
        "frequency_penalty": float(options.frequency_penalty),
        "presence_penalty": float(options.presence_penalty),
        **_ends(request),
        **_draw(options),
    }
    if options.top_logprobs is not None:
        fields["logprobs"] = 1
    if options.constraint is not None:
        fields[STRUCTURED_OUTPUT] = as_library_form(options.constraint)
    return fields


def _ends(request: AdmittedRequest) -> dict[str, Any]:
    """Where none is named the library takes the end token of generation_config.json, so one is named always."""
    if not request.eos_token_ids:
        return {"ignore_eos": True}
    ends: dict[str, Any] = {
        "stop_token_ids": set(request.eos_token_ids),
        "eos_token_id": min(request.eos_token_ids),
    }
    if request.options.constraint is None:  # else the library would go on behind the end of the form
        ends["min_new_tokens"] = request.options.min_new_tokens
    return ends


def _draw(options: GenerationRequest) -> dict[str, Any]:
    if options.temperature < _GREEDY_BELOW:
        return {"do_sample": False}
    draw: dict[str, Any] = {
        "do_sample": True,
        "temperature": float(options.temperature),
        "rng_seed": _library_seed(options.seed),
    }
    if options.top_p is not None and options.top_p < 1:
        draw["top_p"] = float(options.top_p)
        draw["top_k"] = TOP_P_CANDIDATES  # or each step sorts the whole vocabulary of each row
    if options.top_k:
        draw["top_k"] = min(int(options.top_k), _LARGEST_TOP_K)
    if options.min_p:
        draw["min_p"] = min(float(options.min_p), _HIGHEST_MIN_P)
    return draw


def _library_seed(seed: int | None) -> int:
    """Any whole number as one of the library's; one of its own for a request without (the library's is always 0)."""
    return random.Random(None if seed is None else int(seed) % _SEEDS).getrandbits(_SEED_BITS)
