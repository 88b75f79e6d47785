"""Requests of OpenAI's API are read whole, or refused with the field that is wrong."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_llm_plugins.errors import InvalidInputError, UnsupportedFeatureError
from mlflow_llm_plugins.openai_api import ChatCompletionRequest, CompletionRequest, RequestOptions
from mlflow_llm_plugins.openai_api.requests import MAX_CHOICES

MESSAGES = [{"role": "user", "content": "hi"}]


def test_a_chat_request_is_read_with_all_its_fields():
    request = ChatCompletionRequest.parse(
        {
            "model": "m",
            "messages": MESSAGES,
            "temperature": 0,
            "max_completion_tokens": 9,
            "n": 2,
            "stream": True,
            "stream_options": {"include_usage": True},
            "chat_template_kwargs": {"enable_thinking": False},
            "user": "u-1",
            "metadata": {"team": "a"},
        }
    )
    assert request.messages == tuple(MESSAGES)
    assert request.sampling == {"temperature": 0.0, "max_new_tokens": 9}
    assert (request.n, request.stream, request.include_usage) == (2, True, True)
    assert request.chat_template_kwargs == {"enable_thinking": False}


def test_a_completion_request_is_read_with_all_its_fields():
    request = CompletionRequest.parse({"prompt": ["a", "b"], "stop": "\n", "seed": 1})
    assert request.prompts == ("a", "b")
    assert request.sampling == {"stop": ("\n",), "seed": 1}
    assert (request.n, request.stream, request.include_usage) == (1, False, False)


def test_options_are_read_without_messages_or_prompt():
    options = RequestOptions.parse({"top_k": 3, "n": None})
    assert (options.sampling, options.n) == ({"top_k": 3}, 1)


@pytest.mark.parametrize(
    ("kind", "raw", "complaint"),
    [
        (ChatCompletionRequest, [], "The request must be an object with string keys, got []."),
        (ChatCompletionRequest, {}, "The request has no messages; its fields are: none."),
        (ChatCompletionRequest, {"prompt": "x"}, "The request has no messages; its fields are: prompt."),
        (ChatCompletionRequest, {"messages": None}, "The request has no messages; its fields are: messages."),
        (CompletionRequest, {"messages": MESSAGES}, "The request has no prompt; its fields are: messages."),
        (CompletionRequest, {"prompt": "x", "n": 0}, f"n must be from 1 to {MAX_CHOICES}, got 0."),
        (CompletionRequest, {"prompt": "x", "n": 129}, f"n must be from 1 to {MAX_CHOICES}, got 129."),
        (CompletionRequest, {"prompt": "x", "n": "2"}, "n must be a whole number of at most 64 bits, got '2'."),
        (CompletionRequest, {"prompt": "x", "stream": "yes"}, "stream must be true or false, got 'yes'."),
        (CompletionRequest, {"prompt": "x", "stream": 1}, "stream must be true or false, got 1."),
        (CompletionRequest, {"prompt": "x", "stream_options": True}, "stream_options must be an object"),
        (
            CompletionRequest,
            {"prompt": "x", "stream_options": {"include_usage": 1}},
            "stream_options.include_usage must be true or false, got 1.",
        ),
        (
            ChatCompletionRequest,
            {"messages": MESSAGES, "chat_template_kwargs": "x"},
            "chat_template_kwargs must be an object with string keys, got 'x'.",
        ),
    ],
)
def test_a_bad_request_is_refused_with_field_value_and_what_is_allowed(kind, raw, complaint):
    with pytest.raises(InvalidInputError) as refusal:
        kind.parse(raw)
    assert complaint in str(refusal.value)


@pytest.mark.parametrize(
    ("kind", "raw"), [(ChatCompletionRequest, {"messages": MESSAGES}), (CompletionRequest, {"prompt": "x"})]
)
def test_a_parameter_that_cannot_be_honoured_is_never_ignored(kind, raw):
    with pytest.raises(UnsupportedFeatureError, match=r"^guided_json=\{'type': 'object'\} is not supported by this e"):
        kind.parse({**raw, "guided_json": {"type": "object"}})


@pytest.mark.parametrize(
    ("kind", "raw"), [(ChatCompletionRequest, {"messages": MESSAGES}), (CompletionRequest, {"prompt": "x"})]
)
def test_a_request_may_say_what_the_answer_must_look_like(kind, raw):
    request = kind.parse({**raw, "response_format": {"type": "json_object"}, "logit_bias": {"1": 2}})
    assert request.sampling == {"constraint": ("json_schema", '{"type": "object"}'), "logit_bias": {1: 2.0}}


def test_chat_template_kwargs_of_a_completion_are_left_alone():
    assert CompletionRequest.parse({"prompt": "x", "chat_template_kwargs": {"a": 1}}).prompts == ("x",)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
field_names = st.sampled_from(
    [
        *("messages", "prompt", "temperature", "n", "stop", "stream", "stream_options", "tools", "max_tokens", "x"),
        *("logit_bias", "stop_token_ids", "ignore_eos", "response_format", "choice", "json_schema"),
    ]
)


@given(json_values | st.dictionaries(field_names, json_values))
@pytest.mark.parametrize("kind", [ChatCompletionRequest, CompletionRequest])
def test_any_json_is_read_or_refused_and_nothing_else_happens(kind, raw):
    with suppress(InvalidInputError):
        assert isinstance(kind.parse(raw), kind)
