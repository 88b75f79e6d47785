"""Attention of one call a request: transformers' own results, request by request, for every mix of a step."""

from __future__ import annotations

import pytest
import torch

from mlflow_llm_plugins.generation import GenerationRequest, open_engine
from mlflow_llm_plugins.generation.cpu.attention import NAME
from tests.generation.conftest import SMALL, plain_greedy, plain_logprobs, random_prompts
from tests.models import byte_tokenizer, random_model

LENGTHS = (1, 2, 3, 30, 31, 64, 65, 150, 180)  # of one token, around a page, prefilled in chunks, of unlike lengths
SETTINGS = SMALL.model_copy(update={"max_requests_per_batch": 9, "max_batch_tokens": 48})


@pytest.fixture
def spy(monkeypatch):
    """Names of the attention functions that models of the engine ran with."""
    seen = set()
    original = torch.nn.Module.__call__

    def call(self, *args, **kwargs):
        if "cu_seq_lens_q" in kwargs and hasattr(self, "config"):
            seen.add(self.config._attn_implementation)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(torch.nn.Module, "__call__", call)
    return seen


@pytest.mark.parametrize("per_request", [True, False])
@pytest.mark.parametrize("kind", ["llama", "mistral_sliding", "gemma3", "gpt2", "qwen2"])
def test_tokens_and_logprobs_of_prompts_of_all_lengths_are_those_of_a_plain_forward(kind, per_request, spy):
    model, reference = random_model(kind), random_model(kind)
    engine = open_engine(model, byte_tokenizer(), SETTINGS.model_copy(update={"per_request_attention": per_request}))
    prompts = random_prompts(*LENGTHS, seed=7)
    try:
        requests = [GenerationRequest(p, max_new_tokens=40, eos_token_ids=(), top_logprobs=0) for p in prompts]
        streams = [engine.submit(request) for request in requests]
        for prompt, stream in zip(prompts, streams, strict=True):
            output = stream.result()
            assert list(output.token_ids) == plain_greedy(reference, prompt, 40)
            expected = plain_logprobs(reference, [*prompt, *output.token_ids])[-40:]
            assert output.logprobs == pytest.approx(expected, abs=1e-4)
    finally:
        engine.close()
    assert spy == {NAME if per_request else "sdpa"}


def test_other_models_of_the_process_and_the_model_itself_afterwards_are_untouched():
    model, other = random_model("llama"), random_model("llama")
    ids = torch.tensor([random_prompts(20)[0]])
    with torch.no_grad():
        before = other(ids).logits
        engine = open_engine(model, byte_tokenizer(), SETTINGS)
        assert other.config._attn_implementation == "sdpa"
        assert torch.equal(other(ids).logits, before)
        engine.close()
        assert model.config._attn_implementation == "sdpa"
        assert torch.allclose(model(ids).logits, before, atol=1e-5)


def test_a_nan_of_one_request_does_not_reach_those_of_the_same_step():
    model = random_model("llama")
    with torch.no_grad():
        model.get_input_embeddings().weight[300] = torch.nan  # an id that no text has
    engine = open_engine(model, byte_tokenizer(), SETTINGS)
    healthy = random_prompts(9, 40, 100, seed=2)
    try:
        streams = [
            engine.submit(GenerationRequest(p, max_new_tokens=20, eos_token_ids=()))
            for p in (healthy[0], [9, 300, 11], healthy[1], [9] * 60 + [300], healthy[2])
        ]
        for prompt, place in zip(healthy, (0, 2, 4), strict=True):
            assert list(streams[place].result().token_ids) == plain_greedy(random_model("llama"), prompt, 20)
    finally:
        engine.close()


def test_a_model_whose_attention_needs_more_keeps_that_of_transformers(monkeypatch, spy, caplog):
    monkeypatch.setattr("mlflow_llm_plugins.generation.cpu.attention._UNSUPPORTED", ("sliding_window",))
    model, reference = random_model("mistral_sliding"), random_model("mistral_sliding")
    with caplog.at_level("INFO", logger="mlflow_llm_plugins"):
        engine = open_engine(model, byte_tokenizer(), SETTINGS)
    prompt = random_prompts(30)[0]
    try:
        assert engine.stats().engine == "transformers"
        spy.clear()
        output = engine.submit(GenerationRequest(prompt, max_new_tokens=20, eos_token_ids=())).result()
        assert list(output.token_ids) == plain_greedy(reference, prompt, 20)
    finally:
        engine.close()
    assert spy == {"sdpa"}
    assert any("one call a request is not right for this model" in message for message in caplog.messages)
