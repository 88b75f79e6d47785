"""What a request does not say comes from the generation_config, else it is greedy."""

from __future__ import annotations

import pytest

from mlflow_llm_plugins.errors import InvalidInputError, UnsupportedFeatureError
from mlflow_llm_plugins.openai_api import check_generation_config, sampling_defaults, unhonoured, with_defaults

# The generation_config.json of Qwen2.5-Instruct
QWEN = {
    "bos_token_id": 151643,
    "pad_token_id": 151643,
    "do_sample": True,
    "eos_token_id": [151645, 151643],
    "repetition_penalty": 1.05,
    "temperature": 0.7,
    "top_p": 0.8,
    "top_k": 20,
    "transformers_version": "4.37.0",
}


@pytest.mark.parametrize(
    ("config", "defaults"),
    [
        ({}, {"temperature": 0.0}),
        ({"do_sample": None, "temperature": 0.7, "top_p": 0.9}, {"temperature": 0.0}),
        ({"do_sample": False, "temperature": 0.7}, {"temperature": 0.0}),
        ({"do_sample": True}, {"temperature": 1.0}),
        (QWEN, {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05}),
        (
            {"repetition_penalty": 1.1, "no_repeat_ngram_size": 3, "min_new_tokens": 2, "top_k": 5},
            {"temperature": 0.0, "repetition_penalty": 1.1, "no_repeat_ngram_size": 3, "min_new_tokens": 2},
        ),
        (
            {"max_new_tokens": 64, "stop_strings": "END", "min_p": None},
            {"temperature": 0.0, "default_new_tokens": 64, "stop": ("END",)},
        ),
    ],
)
def test_a_generation_config_gives_the_defaults_that_transformers_would_use(config, defaults):
    assert sampling_defaults(config) == defaults


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"do_sample": "yes"}, "generation_config.do_sample must be true or false, got 'yes'."),
        (
            {"do_sample": True, "temperature": "hot"},
            "generation_config.temperature must be a finite number, got 'hot'.",
        ),
        ({"max_new_tokens": 1.5}, "generation_config.max_new_tokens must be a whole number"),
        ({"repetition_penalty": "1.1"}, "generation_config.repetition_penalty must be a finite number, got '1.1'."),
        ({"min_new_tokens": True}, "generation_config.min_new_tokens must be a whole number"),
        ({"stop_strings": [1]}, "generation_config.stop_strings must be a string or a list of strings, got [1]."),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_where_it_stands(config, complaint):
    with pytest.raises(InvalidInputError) as refusal:
        check_generation_config(config)
    assert complaint in str(refusal.value)


SAMPLED = {"temperature": 0.7, "top_p": 0.8}
GREEDY = {"temperature": 0.0}


@pytest.mark.parametrize(
    ("given", "defaults", "merged"),
    [
        ({}, SAMPLED, SAMPLED),
        ({"top_p": 0.5}, SAMPLED, {"temperature": 0.7, "top_p": 0.5}),
        ({"temperature": 0.0}, SAMPLED, {"temperature": 0.0, "top_p": 0.8}),
        ({"top_p": 0.5}, GREEDY, {"temperature": 1.0, "top_p": 0.5}),
        ({"top_k": 40}, GREEDY, {"temperature": 1.0, "top_k": 40}),
        ({"min_p": 0.1}, GREEDY, {"temperature": 1.0, "min_p": 0.1}),
        ({"top_p": 1.0, "top_k": 0, "min_p": 0.0}, GREEDY, {"temperature": 0.0, "top_p": 1, "top_k": 0, "min_p": 0}),
        ({"top_p": 0.5, "temperature": 0.0}, GREEDY, {"temperature": 0.0, "top_p": 0.5}),
        ({"seed": 1}, GREEDY, {"temperature": 0.0, "seed": 1}),
        (
            {"repetition_penalty": 1.0},
            {"temperature": 0.0, "repetition_penalty": 1.2},
            {"temperature": 0.0, "repetition_penalty": 1.0},
        ),
        ({"max_new_tokens": 2}, {"min_new_tokens": 5}, {"max_new_tokens": 2, "min_new_tokens": 2}),
        ({"max_new_tokens": 9}, {"default_new_tokens": 0}, {"max_new_tokens": 9}),
        ({"max_new_tokens": 9}, {"min_new_tokens": 5}, {"max_new_tokens": 9, "min_new_tokens": 5}),
        (
            {"max_new_tokens": 2, "min_new_tokens": 4},
            {"min_new_tokens": 5},
            {"max_new_tokens": 2, "min_new_tokens": 4},
        ),
    ],
)
def test_a_request_comes_before_the_defaults(given, defaults, merged):
    assert with_defaults(given, defaults) == merged


def test_what_a_checkpoint_asks_for_in_vain_is_found():
    assert unhonoured(QWEN) == {}
    assert unhonoured({**QWEN, "min_length": 4, "suppress_tokens": [7]}) == {"suppress_tokens": [7], "min_length": 4}
    assert unhonoured({"num_beams": 1, "min_length": 0, "suppress_tokens": None}) == {}


def test_a_user_s_config_that_cannot_be_honoured_is_refused_by_name():
    with pytest.raises(UnsupportedFeatureError) as refusal:
        check_generation_config({"num_beams": 4, "temperature": 0.7, "min_length": 2, "do_sample": True})
    assert str(refusal.value) == (
        "generation_config: min_length=2, num_beams=4 are not supported by this engine; leave them out."
    )
