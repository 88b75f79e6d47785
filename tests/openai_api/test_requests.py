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
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


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
            "logprobs": True,
            "top_logprobs": 4,
            "tools": [TOOL],
            "reasoning_effort": "low",
            "parallel_tool_calls": False,
            "user": "u-1",
            "metadata": {"team": "a"},
        }
    )
    assert request.messages == tuple(MESSAGES)
    assert request.sampling == {"temperature": 0.0, "max_new_tokens": 9, "top_logprobs": 4}
    assert (request.n, request.stream, request.include_usage) == (2, True, True)
    assert (request.tools, request.parallel_tool_calls, request.reasoning_effort) == ((TOOL,), False, "low")
    assert request.chat_template_kwargs == {"enable_thinking": False}


def test_a_completion_request_is_read_with_all_its_fields():
    request = CompletionRequest.parse({"prompt": ["a", "b"], "stop": "\n", "seed": 1, "logprobs": 0, "echo": True})
    assert request.prompts == ("a", "b")
    assert request.sampling == {"stop": ("\n",), "seed": 1, "top_logprobs": 0}
    assert (request.n, request.stream, request.include_usage) == (1, False, False)
    assert (request.echo, request.score_only) == (True, False)


def test_a_completion_of_no_tokens_scores_its_prompt():
    request = CompletionRequest.parse({"prompt": "a", "max_tokens": 0, "echo": True, "logprobs": 1})
    assert (request.echo, request.score_only) == (True, True)
    assert request.sampling == {"top_logprobs": 1}


def test_where_tools_may_not_be_called_the_request_has_none():
    assert ChatCompletionRequest.parse({"messages": MESSAGES, "tools": [TOOL], "tool_choice": "none"}).tools == ()


def test_options_are_read_without_messages_or_prompt():
    options = RequestOptions.parse({"top_k": 3, "n": None})
    assert (options.sampling, options.n) == ({"top_k": 3}, 1)


@pytest.mark.parametrize(
    ("kind", "raw", "complaint"),
    [
        (ChatCompletionRequest, [], "The request must be an object with string keys, got []."),
        (ChatCompletionRequest, {}, "The request has no messages; its fields are: none."),
        (ChatCompletionRequest, {"prompt": "x"}, "The request has no messages; its fields are: prompt."),
        (ChatCompletionRequest, {"messages": None}, "messages must not be null."),
        (ChatCompletionRequest, {"messages": MESSAGES, "max_tokens": 0}, "max_tokens must be at least 1, got 0."),
        (RequestOptions, {"max_completion_tokens": 0}, "max_completion_tokens must be at least 1, got 0."),
        (CompletionRequest, {"prompt": "x", "max_tokens": -1}, "max_tokens must be at least 1, got -1."),
        (CompletionRequest, {"prompt": "x", "min_tokens": -1}, "min_tokens must be at least 0, got -1."),
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
        (ChatCompletionRequest, {"messages": MESSAGES, "top_logprobs": 2}, "top_logprobs=2 needs logprobs=true."),
        (ChatCompletionRequest, {"messages": MESSAGES, "tools": "f"}, "tools must be a list of functions, got str."),
        (
            ChatCompletionRequest,
            {"messages": MESSAGES, "reasoning_effort": 1},
            "reasoning_effort must be a string, got 1.",
        ),
        (CompletionRequest, {"prompt": "x", "echo": 1}, "echo must be true or false, got 1."),
        (
            ChatCompletionRequest,
            {"messages": MESSAGES, "parallel_tool_calls": "no"},
            "parallel_tool_calls must be true or false, got 'no'.",
        ),
        (
            CompletionRequest,
            {"prompt": "x", "stream_options": {"continuous_usage_stats": True}},
            "continuous_usage_stats=True is not supported",
        ),
        (CompletionRequest, {"prompt": "x", "add_special_tokens": False}, "add_special_tokens=False is not supported"),
        (
            ChatCompletionRequest,
            {"messages": MESSAGES, "add_special_tokens": True},
            "add_special_tokens=True is not supported",
        ),
        (
            CompletionRequest,
            {f"f{i:02}": 1 for i in range(12)},
            "its fields are: f00, f01, f02, f03, f04, f05, f06, f07, f08, f09, ...",
        ),
        (
            ChatCompletionRequest,
            {"messages": MESSAGES, "tools": [TOOL, TOOL]},
            "tools has more than one function of the name 'f'.",
        ),
        (
            CompletionRequest,
            {"prompt": "x", "max_tokens": 0},
            "max_tokens must be at least 1, or 0 with echo=true, got 0.",
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
    with pytest.raises(UnsupportedFeatureError, match=r"^guided_json is not supported by this e"):
        kind.parse({**raw, "guided_json": {"type": "object"}})


@pytest.mark.parametrize(
    ("kind", "raw", "refused"),
    [
        (ChatCompletionRequest, {"messages": MESSAGES, "echo": True}, "echo=True"),
        (CompletionRequest, {"prompt": "x", "top_logprobs": 2}, "top_logprobs=2"),
        (CompletionRequest, {"prompt": "x", "tool_choice": "required"}, "tool_choice"),
        (RequestOptions, {"logprobs": True}, "logprobs=True"),
    ],
)
def test_what_another_kind_of_request_reads_is_refused(kind, raw, refused):
    with pytest.raises(UnsupportedFeatureError) as refusal:
        kind.parse(raw)
    message = f"{refused} is not supported by this engine in this kind of request; leave it out."
    assert str(refusal.value) == message


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
        *("logprobs", "top_logprobs", "echo", "tool_choice", "reasoning_effort"),
    ]
)


@given(json_values | st.dictionaries(field_names, json_values))
@pytest.mark.parametrize("kind", [ChatCompletionRequest, CompletionRequest])
def test_any_json_is_read_or_refused_and_nothing_else_happens(kind, raw):
    with suppress(InvalidInputError):
        assert isinstance(kind.parse(raw), kind)
