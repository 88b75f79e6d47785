"""Packed linear layers: the same results, memory that is freed, and models left alone where they do not fit."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from mlflow_llm_plugins.generation import GenerationRequest, open_engine
from mlflow_llm_plugins.generation.cpu.packed_linear import PackedLinear, pack_linear_layers
from mlflow_llm_plugins.generation.twin import make_twin
from tests.generation.conftest import SMALL, plain_greedy, plain_logprobs, random_prompts
from tests.models import byte_tokenizer, random_model

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this build of torch has no oneDNN to pack for"
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 17, 300])
@pytest.mark.parametrize("min_rows", [1, 4])
def test_a_packed_layer_multiplies_like_the_one_it_was_made_from(dtype, bias, rows, min_rows):
    torch.manual_seed(0)
    layer = nn.Linear(96, 160, bias=bias).to(dtype)
    packed = PackedLinear(layer, min_rows)
    inputs = torch.randn(1, rows, 96).to(dtype)
    with torch.no_grad():
        output, expected = packed(inputs), layer(inputs)
    assert output.shape == expected.shape
    assert torch.allclose(output, expected, atol=1e-5 if dtype == torch.float32 else 3e-2)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "opt", "mixtral", "gemma3", "phi3"])
def test_an_engine_on_packed_weights_answers_and_scores_as_a_plain_forward(kind):
    model, reference = random_model(kind), random_model(kind)
    engine = open_engine(model, byte_tokenizer(), SMALL.model_copy(update={"packed_weights": True}))
    assert any(isinstance(module, PackedLinear) for module in model.modules())
    prompts = random_prompts(1, 3, 50, 90, seed=7)
    try:
        streams = [engine.submit(GenerationRequest(p, max_new_tokens=20, eos_token_ids=())) for p in prompts]
        for prompt, stream in zip(prompts, streams, strict=True):
            assert list(stream.result().token_ids) == plain_greedy(reference, prompt, 20)
        for prompt, scores in zip(prompts, engine.score(prompts), strict=True):
            assert scores == pytest.approx(plain_logprobs(reference, prompt), abs=1e-4)
    finally:
        engine.close()


def test_the_original_weights_are_freed_and_the_twin_shares_the_packed_ones():
    model = random_model("llama")
    weight = weakref.ref(model.model.layers[0].mlp.up_proj.weight)
    assert pack_linear_layers(model, True) > 0
    gc.collect()
    assert weight() is None
    twin = make_twin(model)
    assert twin.model.layers[0].mlp.up_proj.packed is model.model.layers[0].mlp.up_proj.packed


def test_a_tied_embedding_keeps_its_weight():
    model = random_model("llama", tie_word_embeddings=True)
    before = model.get_input_embeddings().weight.clone()
    pack_linear_layers(model, True)
    assert isinstance(model.lm_head, PackedLinear)
    assert torch.equal(model.get_input_embeddings().weight, before)


def test_switched_off_nothing_is_replaced():
    model = random_model("llama")
    engine = open_engine(model, byte_tokenizer(), SMALL.model_copy(update={"packed_weights": False}))
    engine.close()
    assert not any(isinstance(module, PackedLinear) for module in model.modules())


class ReadsItsWeight(nn.Module):
    """A layer that multiplies by the weight of its child in a way of its own, as some architectures do."""

    def __init__(self, layer):
        super().__init__()
        self.inner = layer

    def forward(self, inputs):
        return nn.functional.linear(inputs, self.inner.weight, self.inner.bias)


def test_a_model_that_reads_the_weights_of_its_layers_is_left_alone():
    model = random_model("llama")
    model.model.layers[1].mlp.up_proj = ReadsItsWeight(model.model.layers[1].mlp.up_proj)
    reference = copy.deepcopy(model)
    assert pack_linear_layers(model, True) == 0
    ids = torch.tensor([[9, 10, 11]])
    with torch.no_grad():
        assert torch.equal(model(ids).logits, reference(ids).logits)


def test_layers_that_somebody_listens_to_are_left_alone():
    model = random_model("llama")
    calls = []
    layer = model.model.layers[0].self_attn.q_proj
    layer.register_forward_hook(lambda *_: calls.append(1))
    pack_linear_layers(model, True)
    assert model.model.layers[0].self_attn.q_proj is layer
