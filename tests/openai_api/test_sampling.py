"""Sampling fields are read by type and named as engines name them."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.generation import GenerationRequest
from mlflow_llm_plugins.openai_api.constraints import CONSTRAINT_FIELDS
from mlflow_llm_plugins.openai_api.sampling import SAMPLING_FIELDS, parse_sampling

NUMBERS = ["temperature", "top_p", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty"]
INTEGERS = [
    "top_k",
    "seed",
    "max_tokens",
    "max_completion_tokens",
    "max_new_tokens",
    "min_tokens",
    "min_new_tokens",
    "no_repeat_ngram_size",
]
VALID = {
    **dict.fromkeys([*NUMBERS, *INTEGERS], 1),
    "logit_bias": {"5": 1},
    "stop_token_ids": [5],
    "ignore_eos": True,
    "stop": "a",
    "stop_sequences": ["b"],
    "regex": "a+",
}


def test_every_field_reaches_the_engine_under_its_name():
    raw = {
        "temperature": 1,
        "top_p": 0.9,
        "min_p": 0.05,
        "top_k": 40,
        "seed": 2**63 - 1,
        "repetition_penalty": 1.1,
        "frequency_penalty": 0.5,
        "presence_penalty": -1,
        "no_repeat_ngram_size": 3,
        "logit_bias": {"50256": -100, "0": 0.5},
        "max_tokens": 7,
        "min_tokens": 2,
        "stop": "\n",
        "stop_sequences": ["END", "\n"],
        "stop_token_ids": [4, 5],
        "ignore_eos": True,
        "choice": ["yes", "no"],
    }
    assert parse_sampling(raw) == {
        "temperature": 1.0,
        "top_p": 0.9,
        "min_p": 0.05,
        "top_k": 40,
        "seed": 2**63 - 1,
        "repetition_penalty": 1.1,
        "frequency_penalty": 0.5,
        "presence_penalty": -1.0,
        "no_repeat_ngram_size": 3,
        "logit_bias": {50256: -100.0, 0: 0.5},
        "max_new_tokens": 7,
        "min_new_tokens": 2,
        "stop": ("\n", "END"),
        "stop_token_ids": (4, 5),
        "eos_token_ids": (),
        "constraint": ("choice", ("yes", "no")),
    }


def test_only_what_was_given_is_there():
    assert parse_sampling({"temperature": None, "stop": None, "messages": []}) == {}
    assert parse_sampling(dict.fromkeys(SAMPLING_FIELDS)) == {}


def test_end_tokens_are_the_model_s_own_unless_they_shall_be_ignored():
    assert parse_sampling({"ignore_eos": False}) == {}
    assert parse_sampling({"ignore_eos": True}) == {"eos_token_ids": ()}


def test_the_names_are_fields_of_a_generation_request():
    assert parse_sampling(VALID).keys() <= {field.name for field in dataclasses.fields(GenerationRequest)}
    assert VALID.keys() | set(CONSTRAINT_FIELDS) == set(SAMPLING_FIELDS)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["0.5", True, math.nan, math.inf, 10**400, [1], {}])
def test_what_is_no_finite_number_is_refused_with_field_and_value(name, value):
    with pytest.raises(InvalidInputError, match=rf"^{name} must be a finite number, got ") as refusal:
        parse_sampling({name: value})
    assert repr(value)[:10] in str(refusal.value)


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("value", ["5", True, 5.0, 2**63, -(2**63) - 1, [5]])
def test_what_is_no_whole_number_is_refused_with_field_and_value(name, value):
    with pytest.raises(InvalidInputError) as refusal:
        parse_sampling({name: value})
    assert str(refusal.value) == f"{name} must be a whole number of at most 64 bits, got {value!r}."


@pytest.mark.parametrize("value", [5, ["a", 5], {"a": 1}, [["a"]], True])
def test_a_stop_that_is_no_text_is_refused(value):
    with pytest.raises(InvalidInputError) as refusal:
        parse_sampling({"stop": value})
    assert str(refusal.value) == f"stop must be a string or a list of strings, got {value!r}."


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        ({"logit_bias": [5]}, "logit_bias must be an object from token ids to numbers, got [5]."),
        ({"logit_bias": {"the": 5}}, "logit_bias must be an object from token ids to numbers, got {'the': 5}."),
        ({"logit_bias": {"-1": 5}}, "logit_bias must be an object from token ids to numbers, got {'-1': 5}."),
        ({"logit_bias": {"5": "7"}}, "logit_bias[5] must be a finite number, got '7'."),
        ({"logit_bias": {"5": True}}, "logit_bias[5] must be a finite number, got True."),
        ({"stop_token_ids": 5}, "stop_token_ids must be a list of whole numbers, got 5."),
        ({"stop_token_ids": [5, "6"]}, "stop_token_ids[1] must be a whole number of at most 64 bits, got '6'."),
        ({"ignore_eos": "yes"}, "ignore_eos must be true or false, got 'yes'."),
        ({"regex": "a", "grammar": "b"}, "regex='a', grammar='b' each say what the answer must look like"),
    ],
)
def test_a_field_of_the_wrong_form_is_refused_with_the_value(raw, complaint):
    with pytest.raises(InvalidInputError) as refusal:
        parse_sampling(raw)
    assert complaint in str(refusal.value)


def test_token_ids_of_a_caller_in_python_may_be_numbers():
    assert parse_sampling({"logit_bias": {5: 1}}) == {"logit_bias": {5: 1.0}}


def test_a_long_value_is_cut_in_the_message():
    with pytest.raises(InvalidInputError) as refusal:
        parse_sampling({"temperature": "7" * 10_000})
    assert len(str(refusal.value)) < 200


def test_synonyms_may_repeat_each_other():
    assert parse_sampling({"max_tokens": 5, "max_new_tokens": 5}) == {"max_new_tokens": 5}
    assert parse_sampling({"min_tokens": 0, "min_new_tokens": 0}) == {"min_new_tokens": 0}


@pytest.mark.parametrize(("one", "other"), [("max_tokens", "max_new_tokens"), ("min_tokens", "min_new_tokens")])
def test_synonyms_with_two_values_are_refused(one, other):
    with pytest.raises(InvalidInputError) as refusal:
        parse_sampling({one: 5, other: 6})
    assert str(refusal.value) == f"{one}=5 and {other}=6 mean the same and differ; give one of them."


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(SAMPLING_FIELDS), json_values))
def test_any_json_is_read_or_refused_by_name(raw):
    complaint = ""
    try:
        assert None not in parse_sampling(raw).values()
    except InvalidInputError as refusal:
        complaint = str(refusal)
    assert not complaint or any(name in complaint for name in raw)
