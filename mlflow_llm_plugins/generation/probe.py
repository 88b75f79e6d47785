"""A check at load that an engine is right for this architecture: its log-probabilities against a plain forward."""

from __future__ import annotations

import random

from mlflow_llm_plugins.errors import LLMError
from mlflow_llm_plugins.generation.engine import GenerationEngine
from mlflow_llm_plugins.generation.requests import GenerationRequest

_NEW_TOKENS = 4
_EXACT_TOLERANCE = 1e-3  # largest difference, natural logarithms; right engines are within 1e-5
_ROUNDED_TOLERANCE = 0.25  # mean difference with 16-bit or quantized weights; wrong engines are off by 0.5 to 1.4


def probe_failure(engine: GenerationEngine, vocab_size: int, lengths: tuple[int, ...], exact: bool) -> str | None:
    """Generate from random prompts and compare with a plain forward pass.

    Tokens alone would not do: some architectures are wrong and still pick the same ones.

    Args:
        engine: A running engine.
        vocab_size: Prompts are drawn from the ids below it.
        lengths: Tokens of each prompt; they run together.
        exact: Whether weights and arithmetic are float32.

    Returns:
        What is wrong, or None when the engine can be trusted.
    """
    generator = random.Random(0)
    prompts = [[generator.randrange(vocab_size) for _ in range(length)] for length in lengths]
    try:
        streams = [engine.submit(GenerationRequest(p, max_new_tokens=_NEW_TOKENS, eos_token_ids=())) for p in prompts]
        outputs = [stream.result() for stream in streams]
        scores = engine.score([[*p, *o.token_ids] for p, o in zip(prompts, outputs, strict=True)])
    except (LLMError, RuntimeError, ValueError) as error:
        return f"a test request failed: {error}"
    differences = [
        abs(got - expected)
        for output, score in zip(outputs, scores, strict=True)
        for got, expected in zip(output.logprobs, score[-_NEW_TOKENS:], strict=True)
    ]
    difference = max(differences) if exact else sum(differences) / len(differences)
    if difference <= (_EXACT_TOLERANCE if exact else _ROUNDED_TOLERANCE):
        return None
    return f"its log-probabilities differ from a plain forward pass by {difference:.3g}"
