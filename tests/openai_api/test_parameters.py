"""Parameters that engines cannot honour are refused by name; those that change nothing pass."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_llm_plugins.errors import InvalidInputError, UnsupportedFeatureError
from mlflow_llm_plugins.openai_api.parameters import OF_SOME_REQUESTS, UNSUPPORTED, WITHOUT_EFFECT, check_parameters

KNOWN = ("temperature", "top_p", "max_tokens", "stop", "n")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("suffix", "}"),
        ("best_of", 2),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "alloy"}),
        ("typical_p", 0.5),
        ("bad_words", ["x"]),
        ("structured_outputs", {"choice": ["yes", "no"]}),
        ("guided_json", {"type": "object"}),
        ("guided_regex", "[a-z]+"),
        ("guided_choice", ["yes", "no"]),
        ("guided_grammar", "root ::= x"),
        ("do_sample", True),
        ("chat_template", "{{ messages }}"),
        ("suppress_tokens", [7]),
        ("num_return_sequences", 3),
        ("max_time", 2.5),
        ("include_stop_str_in_output", True),
        ("skip_special_tokens", False),
    ],
)
def test_a_parameter_that_cannot_be_honoured_is_refused_by_name(name, value):
    with pytest.raises(UnsupportedFeatureError) as refusal:
        check_parameters({name: value}, KNOWN)
    shown = f"{name}={value}" if isinstance(value, bool | int | float) else name  # texts may be of the prompt
    assert str(refusal.value) == f"{shown} is not supported by this engine; leave it out."
    assert refusal.value.param == name


def test_all_refused_parameters_stand_in_one_message():
    with pytest.raises(UnsupportedFeatureError) as refusal:
        check_parameters({"suffix": "}", "best_of": 2, "temperature": 1}, KNOWN)
    assert str(refusal.value) == "suffix, best_of=2 are not supported by this engine; leave them out."


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("logprobs", True),
        ("logprobs", 0),  # a completion's way to ask for the picked token's
        ("top_logprobs", 3),
        ("echo", True),
        ("tools", [{"type": "function"}]),
        ("tool_choice", "required"),
        ("reasoning_effort", "low"),
    ],
)
def test_a_parameter_that_only_other_requests_have_is_refused_and_left_to_those(name, value):
    with pytest.raises(UnsupportedFeatureError) as refusal:
        check_parameters({name: value}, KNOWN)
    shown = f"{name}={value!r}" if isinstance(value, bool | int) else name
    assert str(refusal.value) == f"{shown} is not supported by this engine in this kind of request; leave it out."
    assert check_parameters({name: value}, (*KNOWN, name)) is None


@pytest.mark.parametrize(
    "neutral",
    [
        {"logprobs": False, "top_logprobs": 0, "echo": False, "suffix": "", "best_of": 1},
        {"typical_p": 1.0, "num_beams": 1, "length_penalty": 1, "bad_words": [], "use_beam_search": False},
        {"structured_outputs": {}, "guided_json": "", "guided_regex": "", "guided_choice": []},
        {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True, "modalities": ["text"]},
        {"skip_special_tokens": True, "include_stop_str_in_output": False, "suppress_tokens": [], "min_length": 0},
        dict.fromkeys({**UNSUPPORTED, **OF_SOME_REQUESTS}),
    ],
)
def test_values_that_ask_for_what_happens_anyway_pass(neutral):
    assert check_parameters(neutral, KNOWN) is None


@given(st.sampled_from(sorted(WITHOUT_EFFECT)), st.text() | st.integers() | st.booleans())
def test_fields_without_effect_are_accepted_with_any_value(name, value):
    assert check_parameters({name: value}, KNOWN) is None


@pytest.mark.parametrize("name", ["x_internal_id", "custom_inputs", "conversation_id", "extra", "tag", ""])
def test_a_field_of_somebody_else_is_left_alone(name):
    assert check_parameters({name: 1}, KNOWN) is None


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("temprature", "temperature"),
        ("Temperature", "temperature"),
        ("max_token", "max_tokens"),
        ("maxTokens", "max_tokens"),
        ("top-p", "top_p"),
        ("stops", "stop"),
        ("logprob", "logprobs"),
    ],
)
def test_a_misspelt_parameter_is_refused_with_what_was_meant(written, meant):
    with pytest.raises(InvalidInputError) as refusal:
        check_parameters({written: 1}, KNOWN)
    assert str(refusal.value) == f"Unknown field {written!r}. Did you mean {meant!r}?"
    assert refusal.value.param == written


def test_unknown_fields_are_compared_with_parameters_within_bounds():
    """Each comparison takes long, and a body has room for hundreds of thousands of fields."""
    compared = []

    class Counting(str):
        def lower(self):
            compared.append(self)
            return super().lower()

    strangers = {Counting(f"stranger_{i:06}"): 0 for i in range(100_000)} | {Counting("temperature" * 9): 0}
    assert check_parameters(strangers, KNOWN) is None
    assert 0 < len(compared) <= 50
