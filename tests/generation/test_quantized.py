"""Quantized and 16-bit weights: the engine's tokens and log-probabilities against the same weights run plainly.

Rounding makes the result of a matrix product depend on what else is in the batch (in 8-bit layers even the choice of
outlier columns), so tokens may part where two candidates are nearly equal, and only there.
"""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from mlflow_llm_plugins.generation import GenerationRequest, open_engine
from tests.generation.conftest import SMALL, plain_greedy, plain_logprobs

NEW_TOKENS = 24
# the largest gap between two candidates' logits that counts as nearly equal
WEIGHTS = {
    "nf4": (BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"), torch.float32, 1e-3),
    "nf4 double": (
        BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True),
        torch.float32,
        1e-3,
    ),
    "int8": (BitsAndBytesConfig(load_in_8bit=True), torch.float32, 0.15),
    "bf16": (None, torch.bfloat16, 0.15),
    "nf4 bf16": (BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"), torch.bfloat16, 0.15),
}


@pytest.fixture(scope="module", params=WEIGHTS, ids=str)
def case(request, tiny_llama):
    """(a model for reference, an engine on the same weights, the tolerance)."""
    config, dtype, tolerance = WEIGHTS[request.param]
    if config is not None and config.load_in_4bit:
        config.bnb_4bit_compute_dtype = dtype

    def load():
        return AutoModelForCausalLM.from_pretrained(tiny_llama, quantization_config=config, dtype=dtype)

    engine = open_engine(load(), AutoTokenizer.from_pretrained(tiny_llama), SMALL)
    yield load(), engine, tolerance
    engine.close()


@pytest.fixture(scope="module")
def prompts(tiny_llama, held_out):
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    return [tokenizer(held_out[0]).input_ids[:length] for length in (6, 40, 90)]


def gap_where_they_part(model, prompt, ours, theirs):
    """Difference of the two candidates' logits at the first token that differs; 0 where none does."""
    place = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b), None)
    if place is None:
        return 0.0
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *ours[:place]]])).logits[0, -1].float()
    return abs(logits[ours[place]] - logits[theirs[place]]).item()


def test_greedy_tokens_equal_generate_up_to_the_first_near_tie(case, prompts):
    model, engine, tolerance = case
    streams = [engine.submit(GenerationRequest(p, max_new_tokens=NEW_TOKENS, eos_token_ids=())) for p in prompts]
    for prompt, stream in zip(prompts, streams, strict=True):
        ours = list(stream.result().token_ids)
        assert gap_where_they_part(model, prompt, ours, plain_greedy(model, prompt, NEW_TOKENS)) <= tolerance
    assert engine.stats().engine == "transformers"


def test_scores_beside_running_generation_are_those_of_a_plain_forward_pass(case, prompts):
    model, engine, tolerance = case
    expected = [plain_logprobs(model, prompt) for prompt in prompts]
    stream = engine.submit(GenerationRequest(prompts[0], max_new_tokens=100, eos_token_ids=()))
    rounds = 0
    while not stream.ended or rounds < 2:
        for prompt, logprobs in zip(prompts, expected, strict=True):
            assert engine.score([prompt])[0] == pytest.approx(logprobs, abs=max(1e-4, tolerance / 3))
        rounds += 1
    assert len(stream.result().token_ids) == 100
