"""Messages are checked place by place and come out in the form that chat templates read."""

from __future__ import annotations

import pytest

from mlflow_llm_plugins.errors import InvalidInputError, UnsupportedFeatureError
from mlflow_llm_plugins.openai_api import parse_messages

SECRET = "the launch code is 4711"


def user(content):
    return {"role": "user", "content": content}


def test_text_parts_are_joined_with_line_breaks():
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert parse_messages([user(parts)]) == (user("one\ntwo"),)


def test_nulls_are_dropped_and_other_fields_kept_for_the_template():
    message = {"role": "assistant", "content": "hi", "refusal": None, "audio": None, "reasoning_content": "hm"}
    assert parse_messages([message]) == ({"role": "assistant", "content": "hi", "reasoning_content": "hm"},)


def test_arguments_of_tool_calls_are_parsed_and_content_may_be_missing():
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    for content in ({}, {"content": None}):
        (message,) = parse_messages([{"role": "assistant", **content, "tool_calls": [call]}])
        assert message["tool_calls"][0]["function"]["arguments"] == {"x": 1}
        assert "content" not in message


def test_an_empty_list_of_calls_is_none():
    assert parse_messages([{"role": "assistant", "content": "x", "tool_calls": []}]) == (
        {"role": "assistant", "content": "x"},
    )
    with pytest.raises(InvalidInputError, match="content must be a string"):
        parse_messages([{"role": "assistant", "content": None, "tool_calls": []}])


def test_arguments_that_are_nested_too_deeply_are_refused_by_place():
    call = {"function": {"name": "f", "arguments": "[" * 100_000}}
    with pytest.raises(InvalidInputError) as refusal:
        parse_messages([user("x"), {"role": "assistant", "tool_calls": [call]}])
    place = "messages[1].tool_calls[0].function.arguments"
    assert (str(refusal.value), refusal.value.param) == (f"{place} is nested too deeply.", place)


@pytest.mark.parametrize("arguments", ["{not json", None, {"x": 1}])
def test_arguments_that_are_no_json_text_stay_as_they_are(arguments):
    call = {"function": {"name": "f", "arguments": arguments}}
    (message,) = parse_messages([{"role": "assistant", "tool_calls": [call]}])
    assert message["tool_calls"][0]["function"]["arguments"] == arguments


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool"])
def test_the_roles_of_openai_are_known(role):
    assert parse_messages([{"role": role, "content": "x"}])[0]["role"] == role


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        (SECRET, "messages must be a list of messages, got str."),
        (None, "messages must be a list of messages, got NoneType."),
        ([], "messages must have at least one message, got an empty list."),
        ([SECRET], "messages[0] must be an object with role and content, got str."),
        ([user("x"), {"content": SECRET}], "messages[1].role must be one of system, developer, user, assistant, tool"),
        ([{"role": "robot", "content": SECRET}], "got 'robot'."),
        ([{"role": "user"}], "messages[0].content must be a string or a list of text parts, got NoneType."),
        ([user(7)], "messages[0].content must be a string or a list of text parts, got int."),
        ([user([SECRET])], 'messages[0].content[0] must be an object such as {"type": "text", "text": "..."}.'),
        ([user([{"type": "text", "text": 5}])], "messages[0].content[0].text must be a string, got int."),
        ([{"role": "assistant", "tool_calls": SECRET}], "messages[0].tool_calls must be a list, got str."),
        (
            [{"role": "assistant", "tool_calls": [SECRET]}],
            "messages[0].tool_calls[0] must be an object with a function",
        ),
    ],
)
def test_what_is_no_conversation_is_refused_by_place_and_without_its_words(messages, complaint):
    with pytest.raises(InvalidInputError) as refusal:
        parse_messages(messages)
    assert complaint in str(refusal.value)
    assert SECRET not in str(refusal.value)


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file"])
def test_parts_that_are_no_text_are_refused_by_name(kind):
    parts = [{"type": "text", "text": SECRET}, {"type": kind, kind: {"url": "http://example.org"}}]
    with pytest.raises(UnsupportedFeatureError) as refusal:
        parse_messages([user(parts)])
    assert str(refusal.value) == f"messages[0].content[1] has type {kind!r}; this engine reads only 'text' parts."


def test_audio_of_an_earlier_answer_is_refused():
    with pytest.raises(UnsupportedFeatureError, match=r"^messages\[0\]\.audio is not supported by this engine\.$"):
        parse_messages([{"role": "assistant", "content": "x", "audio": {"id": "a"}}])
