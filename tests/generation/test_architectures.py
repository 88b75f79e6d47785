"""Every architecture gives the right answers, on continuous batching or on the fallback."""

import logging

import pytest

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.generation import GenerationRequest, open_engine
from tests.generation.conftest import SMALL, plain_greedy, plain_logprobs, random_prompts
from tests.models import byte_tokenizer, random_model

PAGED = ["llama", "qwen2", "qwen3", "gpt2", "opt", "mistral_sliding", "gemma2", "gemma3", "mixtral", "phi3", "gpt_oss"]
PADDED = ["gpt_neo", "bloom", "falcon", "mamba", "llama4", "gptj"]
ENGINE_OF = {**dict.fromkeys(PAGED, "transformers"), **dict.fromkeys(PADDED, "generate")}
KINDS = list(ENGINE_OF)
PROMPTS = random_prompts(3, 21, 60)  # the last one is prefilled in chunks
NEW_TOKENS = 12


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_tokens_equal_generate_for_prompts_of_different_lengths_in_one_call(open_model, kind):
    model, engine = open_model(kind)
    streams = [
        engine.submit(GenerationRequest(prompt, max_new_tokens=NEW_TOKENS, eos_token_ids=())) for prompt in PROMPTS
    ]
    answers = [list(stream.result().token_ids) for stream in streams]
    assert answers == [plain_greedy(model, prompt, NEW_TOKENS) for prompt in PROMPTS]
    assert engine.stats().engine == ENGINE_OF[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_logprobs_of_generated_tokens_equal_a_plain_forward_pass(open_model, kind):
    model, engine = open_model(kind)
    request = GenerationRequest(PROMPTS[2], max_new_tokens=NEW_TOKENS, eos_token_ids=(), top_logprobs=0)
    output = engine.submit(request).result()
    expected = plain_logprobs(model, [*PROMPTS[2], *output.token_ids])[-NEW_TOKENS:]
    assert output.logprobs == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_score_equals_a_plain_forward_pass(open_model, kind):
    model, engine = open_model(kind)
    for scores, prompt in zip(engine.score(PROMPTS), PROMPTS, strict=True):
        assert scores == pytest.approx(plain_logprobs(model, prompt), abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_choose_equals_scoring_each_whole_text_alone(open_model, kind):
    model, engine = open_model(kind)
    shared, *own = random_prompts(40, 3, 1, 22, seed=1)
    prompts = [shared + rest for rest in own]
    choices = [[40], [41, 42], [41, 42, 43], [44, 45, 46, 47, 48]]
    for prompt, row in zip(prompts, engine.choose(prompts, choices), strict=True):
        expected = [sum(plain_logprobs(model, prompt + choice)[-len(choice) :]) for choice in choices]
        assert row == pytest.approx(expected, abs=1e-4)


def test_the_context_of_longrope_ends_where_its_factors_would_switch(open_model):
    model, engine = open_model("phi3_longrope")
    assert engine.stats().max_context_length == 64
    prompts = random_prompts(4, 50)
    streams = [engine.submit(GenerationRequest(p, max_new_tokens=12, eos_token_ids=())) for p in prompts]
    answers = [list(stream.result().token_ids) for stream in streams]
    assert answers == [plain_greedy(model, prompt, 12) for prompt in prompts]
    for scores, prompt in zip(engine.score(prompts), prompts, strict=True):
        assert scores == pytest.approx(plain_logprobs(model, prompt), abs=1e-4)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "gpt_neo"])
def test_choose_copes_with_prompts_and_choices_of_very_different_lengths(open_model, kind):
    model, engine = open_model(kind)
    long, short, choice = random_prompts(250, 10, 90, seed=2)
    choices = [[[40], [41, 42]], [choice, [41]]]
    for prompt, own, row in zip([long, short], choices, engine.choose([long, short], choices), strict=True):
        expected = [sum(plain_logprobs(model, prompt + tail)[-len(tail) :]) for tail in own]
        assert row == pytest.approx(expected, abs=1e-3)


def test_a_fallback_is_logged_once_with_its_reason(caplog):
    with caplog.at_level(logging.WARNING, logger="mlflow_llm_plugins"):
        open_engine(random_model("bloom"), byte_tokenizer(), SMALL).close()
    assert [record.getMessage() for record in caplog.records] == [
        "Generation runs in padded batches instead of continuous batching: "
        "BloomForCausalLM does not use transformers' attention interface."
    ]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("t5", "T5ForConditionalGeneration is an encoder-decoder; the engine runs causal language models only."),
        ("bert", "BertForMaskedLM cannot generate; the engine runs causal language models only."),
    ],
)
@pytest.mark.parametrize("engine", ["transformers", "generate"])
def test_models_for_other_tasks_are_refused(kind, message, engine):
    with pytest.raises(InvalidInputError) as error:
        open_engine(random_model(kind), byte_tokenizer(), SMALL, engine)
    assert str(error.value) == message


def test_an_unknown_engine_is_refused_with_the_known_ones():
    with pytest.raises(InvalidInputError) as error:
        open_engine(None, None, SMALL, "transformer")
    assert str(error.value) == (
        "Unknown engine 'transformer'. Did you mean 'transformers'? Known: generate, openvino, transformers; "
        "or 'package.module:Name' for one of your own."
    )
