"""Logits come in slices, as the model itself gives them, and leave the engine free between two of them."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import transformers

from mlflow_llm_plugins.errors import EngineUnavailableError, InvalidInputError, PromptTooLongError
from mlflow_llm_plugins.generation import GenerationRequest, open_engine
from mlflow_llm_plugins.generation.scoring.scorer import Scorer
from tests.generation.conftest import SMALL, plain_logprobs, random_prompts
from tests.generation.test_architectures import KINDS
from tests.models import VOCAB_SIZE, byte_tokenizer, random_model

LONG = 700  # tokens: three slices
LONG_CONTEXT = {"max_position_embeddings": 1024}


@torch.no_grad()
def plain_logits(model, ids, first=1):
    """[places, vocabulary] of one plain forward pass."""
    return model(torch.tensor([ids])).logits[0, first - 1 : -1].float().numpy()


@pytest.fixture(scope="module", params=["llama", "gemma2"])  # the second one caps its logits
def long_case(request):
    model = random_model(request.param, **LONG_CONTEXT)
    engine = open_engine(copy.deepcopy(model), byte_tokenizer(), SMALL)
    yield model, engine
    engine.close()


ENGINES = ["transformers", "openvino"]


@pytest.mark.parametrize(
    ("kind", "engine"), [*((kind, "transformers") for kind in KINDS), ("llama", "openvino"), ("qwen3", "openvino")]
)
def test_logits_equal_those_of_the_model(open_model, kind, engine):
    model, engine = open_model(kind, engine)
    for prompt in random_prompts(2, 21, 60):
        logits = np.concatenate(list(engine.logits(prompt)))
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, plain_logits(model, prompt), atol=1e-4)


@pytest.mark.parametrize("first", [1, 2, 30, 59])
@pytest.mark.parametrize(
    ("kind", "engine_name"), [("llama", "transformers"), ("llama", "generate"), ("llama", "openvino"), ("mamba", None)]
)
def test_logits_begin_where_the_first_wanted_token_is_predicted(open_model, kind, engine_name, first):
    model, engine = open_model(kind, engine_name or "transformers")
    (prompt,) = random_prompts(60)
    logits = np.concatenate(list(engine.logits(prompt, first)))
    np.testing.assert_allclose(logits, plain_logits(model, prompt, first), atol=1e-4)


def test_logits_of_a_long_text_come_in_slices_in_order(long_case):
    model, engine = long_case
    (prompt,) = random_prompts(LONG)
    slices = list(engine.logits(prompt, first=100))
    assert [part.shape for part in slices] == [(256, VOCAB_SIZE), (256, VOCAB_SIZE), (LONG - 100 - 512, VOCAB_SIZE)]
    np.testing.assert_allclose(np.concatenate(slices), plain_logits(model, prompt, 100), atol=1e-3)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "llama4", "opt"])  # gemma2 caps its logits
def test_the_logits_of_all_places_never_exist_at_once(kind):
    model, heights = random_model(kind, **LONG_CONTEXT), []
    model.lm_head.register_forward_hook(lambda *call: heights.append(call[2].shape[-2]))  # the twin has it too
    engine = open_engine(model, byte_tokenizer(), SMALL, "generate")
    heights.clear()
    slices = engine.logits(random_prompts(LONG)[0], first=100)
    assert heights == []
    next(slices)
    assert heights == [256]
    assert len(list(slices)) == 2
    assert heights == [256, 256, LONG - 100 - 512]
    engine.close()


def model_of(name, **config):
    """Of an architecture that multiplies, divides or caps its logits."""
    settings = {"vocab_size": VOCAB_SIZE, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, **config}
    settings |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = getattr(transformers, f"{name}Config")(**settings, bos_token_id=2, eos_token_id=1, pad_token_id=0)
        return getattr(transformers, f"{name}ForCausalLM")(made).eval()


def scorer_of(model):
    return Scorer(model, can_branch=False, max_length=1024, max_cached_tokens=0)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("Cohere", {"logit_scale": 0.5}),
        ("Granite", {"logits_scaling": 8.0}),
        ("HyperCLOVAX", {"logits_scaling": 0.5}),
        ("NanoChat", {"final_logit_softcapping": 0.2}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scaled_and_capped_logits_are_computed_some_places_at_a_time(name, config, dtype):
    model, heights = model_of(name, **config).to(dtype), []
    scored = copy.deepcopy(model)
    scorer = scorer_of(scored)
    scored.get_output_embeddings().register_forward_hook(lambda *call: heights.append(call[2].shape[-2]))
    (prompt,) = random_prompts(LONG)
    logits = np.concatenate(list(scorer.logits(prompt, 1)))
    assert heights == [256, 256, LONG - 1 - 512]
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    np.testing.assert_allclose(logits, plain_logits(model, prompt), atol=tolerance)
    raw = model.get_output_embeddings()(model.base_model(torch.tensor([prompt])).last_hidden_state)[0, :-1]
    assert abs(raw.detach().float().numpy() - logits).max() > 2 * tolerance


class Wayward(transformers.LlamaForCausalLM):
    """What it adds behind its body depends on more than the body's states."""

    def forward(self, input_ids=None, **kwargs):
        output = super().forward(input_ids=input_ids, **kwargs)
        output.logits = output.logits + input_ids[..., None] / 100
        output.logits[..., 9] = 0.3
        return output


def test_a_model_that_cannot_be_run_in_parts_gives_the_same_logits_and_scores():
    plain = random_model("llama", **LONG_CONTEXT)
    model = Wayward(plain.config).eval()
    model.load_state_dict(plain.state_dict())
    prompts = random_prompts(LONG, 30, 40)
    scorer = scorer_of(model)
    for prompt, scores in zip(prompts, scorer.score(prompts), strict=True):
        np.testing.assert_allclose(
            np.concatenate(list(scorer.logits(prompt, 7))), plain_logits(model, prompt, 7), atol=1e-3
        )
        assert scores == pytest.approx(plain_logprobs(model, prompt), abs=1e-3)
    assert abs(plain_logits(model, prompts[1]) - plain_logits(plain, prompts[1])).max() > 1


def test_a_body_that_is_more_exact_than_its_output_layer_can_be_read():
    model = random_model("mamba").to(torch.bfloat16)  # its states stay in float32
    (prompt,) = random_prompts(60)
    logits = np.concatenate(list(scorer_of(model).logits(prompt, 1)))
    np.testing.assert_allclose(logits, plain_logits(model, prompt), atol=0.1)


def test_two_texts_can_be_read_in_turns_while_others_use_the_engine(long_case):
    model, engine = long_case
    one, other, third = random_prompts(LONG, LONG - 50, 40, seed=4)
    parts = []
    with ThreadPoolExecutor(1) as another_thread:
        for pair in zip(engine.logits(one), engine.logits(other), strict=True):
            parts.append([part.copy() for part in pair])
            (scores,) = another_thread.submit(engine.score, [third]).result(timeout=60)
            assert scores == pytest.approx(plain_logprobs(model, third), abs=1e-4)
    assert len(parts) == 3
    for prompt, ours in zip((one, other), zip(*parts, strict=True), strict=True):
        np.testing.assert_allclose(np.concatenate(ours), plain_logits(model, prompt), atol=1e-3)


@pytest.mark.parametrize("engine", ENGINES)
def test_logits_are_right_beside_running_generation(open_model, engine):
    model, engine = open_model("llama", engine)
    (prompt,) = random_prompts(40, seed=5)
    stream = engine.submit(GenerationRequest(prompt, max_new_tokens=100, eos_token_ids=()))
    expected, rounds = plain_logits(model, prompt), 0
    while not stream.ended or rounds < 2:
        np.testing.assert_allclose(np.concatenate(list(engine.logits(prompt))), expected, atol=1e-4)
        rounds += 1
    assert len(stream.result().token_ids) == 100


def test_logits_of_16_bit_weights_are_only_made_wider():
    model = random_model("llama").to(torch.bfloat16)
    engine = open_engine(copy.deepcopy(model), byte_tokenizer(), SMALL, "generate")
    (prompt,) = random_prompts(60)
    try:
        logits = np.concatenate(list(engine.logits(prompt)))
    finally:
        engine.close()
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(torch.from_numpy(logits).bfloat16().float().numpy(), logits)
    np.testing.assert_allclose(logits, plain_logits(model, prompt), atol=0.1)


@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_is_predicted_after_the_last_token(open_model, engine):
    _, engine = open_model("llama", engine)
    assert list(engine.logits([9])) == []
    assert list(engine.logits([9, 10, 11], first=3)) == []


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("first", [0, 4, -1, 1.5, "1", None])
def test_a_first_token_outside_the_text_is_refused_at_once(open_model, engine, first):
    _, engine = open_model("llama", engine)
    message = rf"^first must be a whole number from 1 to the number of tokens, here 3, got {first!r}\.$"
    with pytest.raises(InvalidInputError, match=message):
        engine.logits([9, 10, 11], first)


@pytest.mark.parametrize(
    ("ids", "kind", "message"),
    [
        ([9, VOCAB_SIZE], InvalidInputError, r"Token id 320 is outside the model's vocabulary of 320"),
        ([], InvalidInputError, r"The prompt is empty"),
        ("text", InvalidInputError, r"A prompt is a sequence of token ids, whole numbers"),
        (None, InvalidInputError, r"A prompt is a sequence of token ids, whole numbers"),
        ([[9, 10]], InvalidInputError, r"A prompt is a sequence of token ids, whole numbers"),
        ([9, 10.5], InvalidInputError, r"A prompt is a sequence of token ids, whole numbers"),
        ([9] * 257, PromptTooLongError, r"A text of 257 tokens is longer than the context of 256\. Cut it, or score"),
    ],
    ids=["unknown id", "empty", "a string", "nothing", "a batch", "no whole number", "too long"],
)
def test_what_is_no_text_of_the_model_is_refused_at_once(open_model, ids, kind, message):
    _, engine = open_model("llama")
    with pytest.raises(kind, match=message):
        engine.logits(ids)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("of", [np.array, torch.tensor, tuple])
def test_token_ids_and_places_may_be_those_of_numpy_and_torch(open_model, engine, of):
    _, engine = open_model("llama", engine)
    ids = [9, 10, 11]
    (found,), (expected,) = engine.logits(of(ids), np.int64(2)), engine.logits(ids, 2)
    np.testing.assert_array_equal(found, expected)


def test_a_closed_engine_gives_no_more_logits():
    engine = open_engine(random_model("llama", **LONG_CONTEXT), byte_tokenizer(), SMALL)
    (prompt,) = random_prompts(LONG)
    begun = engine.logits(prompt)
    assert len(next(begun)) == 256
    engine.close()
    for slices in (begun, engine.logits(prompt)):
        with pytest.raises(EngineUnavailableError, match=r"^The engine was closed\.$"):
            next(slices)
