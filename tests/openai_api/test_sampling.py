"""Sampling fields are read by type and named as engines name them."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.generation import GenerationRequest
from mlflow_llm_plugins.openai_api.sampling import SAMPLING_FIELDS, parse_sampling

NUMBERS = ["temperature", "top_p", "min_p"]
INTEGERS = ["top_k", "seed", "max_tokens", "max_completion_tokens", "max_new_tokens"]


def test_every_field_reaches_the_engine_under_its_name():
    raw = {
        "temperature": 1,
        "top_p": 0.9,
        "min_p": 0.05,
        "top_k": 40,
        "seed": 2**63 - 1,
        "max_tokens": 7,
        "stop": "\n",
        "stop_sequences": ["END", "\n"],
    }
    assert parse_sampling(raw) == {
        "temperature": 1.0,
        "top_p": 0.9,
        "min_p": 0.05,
        "top_k": 40,
        "seed": 2**63 - 1,
        "max_new_tokens": 7,
        "stop": ("\n", "END"),
    }


def test_only_what_was_given_is_there():
    assert parse_sampling({"temperature": None, "stop": None, "messages": []}) == {}


def test_the_names_are_fields_of_a_generation_request():
    everything = dict.fromkeys(SAMPLING_FIELDS, 1) | {"stop": "a", "stop_sequences": ["b"]}
    assert parse_sampling(everything).keys() <= {field.name for field in dataclasses.fields(GenerationRequest)}


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


def test_a_long_value_is_cut_in_the_message():
    with pytest.raises(InvalidInputError) as refusal:
        parse_sampling({"temperature": "7" * 10_000})
    assert len(str(refusal.value)) < 200


def test_synonyms_may_repeat_each_other():
    assert parse_sampling({"max_tokens": 5, "max_new_tokens": 5}) == {"max_new_tokens": 5}


def test_synonyms_with_two_values_are_refused():
    with pytest.raises(InvalidInputError) as refusal:
        parse_sampling({"max_tokens": 5, "max_new_tokens": 6})
    assert str(refusal.value) == "max_tokens=5 and max_new_tokens=6 mean the same and differ; give one of them."


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
