"""A check at load that an engine is right for this architecture: its log-probabilities against a plain forward."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from mlflow_llm_plugins.errors import LLMError
from mlflow_llm_plugins.generation.admission import Admission, AdmittedRequest
from mlflow_llm_plugins.generation.requests import GenerationOutput, GenerationRequest
from mlflow_llm_plugins.generation.runner import Runner
from mlflow_llm_plugins.generation.scoring.scorer import Scorer
from mlflow_llm_plugins.generation.stream import TokenStream

_NEW_TOKENS = 4
_TIMEOUT_S = 600.0  # for the largest model on the slowest CPU
_EXACT_TOLERANCE = 1e-3  # largest difference, natural logarithms; right engines are within 1e-5
_ROUNDED_TOLERANCE = 0.25  # mean difference with 16-bit or quantized weights; wrong engines are off by 0.5 to 1.4


def probe_failure(
    runner: Runner, scorer: Scorer, tokenizer: Any, admission: Admission, chunk: int, exact: bool
) -> str | None:
    """Generate from random prompts and compare with a plain forward pass.

    Tokens alone would not do: some architectures are wrong and still pick the same ones. It asks the runner itself,
    so that limits meant for callers (queue, timeout) have no part in it.

    Args:
        runner: Running, with nothing else to do.
        scorer: On the same weights.
        tokenizer: Turns tokens into text.
        admission: Vocabulary and the longest request.
        chunk: Tokens of a prefill step; one prompt is longer, where the context has room for it.
        exact: Whether weights and arithmetic are float32.

    Returns:
        What is wrong, or None when the runner can be trusted.
    """
    room = max(1, admission.longest_request - _NEW_TOKENS)
    generator = random.Random(0)
    prompts = [
        [generator.randrange(admission.vocab_size) for _ in range(min(length, room))] for length in (5, chunk + 7)
    ]
    try:
        outputs = _generate(runner, tokenizer, [_request(admission, prompt) for prompt in prompts])
        scores = scorer.score([[*p, *o.token_ids] for p, o in zip(prompts, outputs, strict=True)])
    except (LLMError, RuntimeError, ValueError) as error:
        return f"a test request failed ({error})"
    differences = [
        abs(got - expected)
        for output, score in zip(outputs, scores, strict=True)
        for got, expected in zip(output.logprobs, score[-len(output.logprobs) :], strict=True)
    ]
    difference = max(differences) if exact else sum(differences) / len(differences)
    if difference <= (_EXACT_TOLERANCE if exact else _ROUNDED_TOLERANCE):
        return None
    return f"its log-probabilities differ from a plain forward pass by {difference:.3g}"


def _request(admission: Admission, prompt: list[int]) -> AdmittedRequest:
    new_tokens = min(_NEW_TOKENS, admission.longest_request - len(prompt))
    patient = replace(admission, timeout_s=_TIMEOUT_S, eos_token_ids=frozenset())
    return patient.admit(GenerationRequest(prompt, max_new_tokens=new_tokens, top_logprobs=0))


def _generate(runner: Runner, tokenizer: Any, requests: list[AdmittedRequest]) -> list[GenerationOutput]:
    streams = [TokenStream(request, tokenizer, runner.release) for request in requests]
    for stream in streams:
        runner.start(stream)
    return [stream.result() for stream in streams]
