"""What the tokenizer's response template marks is told apart; what it cannot read stays what the model wrote."""

from __future__ import annotations

import json
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_llm_plugins.openai_api import ResponseParsing, TokenTexts, render_chat
from mlflow_llm_plugins.openai_api.responses import ResponseReader
from tests.openai_api.made_answers import made_answer
from tests.openai_api.response_templates import (
    CALL,
    CALL_END,
    CHANNEL,
    CHANNEL_END,
    PLAIN_MARKS,
    SPECIAL_MARKS,
    ids_of,
    tokenizer_with,
)

TOOLS = [
    {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}},
    {
        "type": "function",
        "function": {"name": "g", "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}}},
    },
]
PLAIN, SPECIAL = tokenizer_with(PLAIN_MARKS), tokenizer_with(SPECIAL_MARKS)
CALL_OF_F = '<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>'


def parsing(tokenizer=PLAIN, tools=TOOLS, prompt_end="", max_calls=None):
    prompt_ids = render_chat(tokenizer, [{"role": "user", "content": "hi"}]) + ids_of(tokenizer, prompt_end)
    return ResponseParsing.of(tokenizer, TokenTexts(tokenizer), prompt_ids, tools, max_calls)


def told(parts):
    """The parts as pairs of field and text, a call as name and arguments; neighbours of one text joined."""
    pairs = [
        (part.field, part.text if part.call is None else [tuple(part.call["function"].values())]) for part in parts
    ]
    joined = []
    for field, own in groupby(pairs, key=lambda pair: pair[0]):
        values = [value for _, value in own]
        joined.append((field, sum(values[1:], start=values[0]) if field == "tool_calls" else "".join(values)))
    return joined


def read(text, tokenizer=PLAIN, tools=TOOLS, stop=(), prompt_end="", max_calls=None):
    output, _ = made_answer(tokenizer, ids_of(tokenizer, text), stop=stop)
    return told(parsing(tokenizer, tools, prompt_end, max_calls).read(output))


def read_in_pieces(text, tokenizer=PLAIN, tools=TOOLS, stop=(), prompt_end="", max_calls=None):
    _, events = made_answer(tokenizer, ids_of(tokenizer, text), stop=stop)
    reader = ResponseReader(parsing(tokenizer, tools, prompt_end, max_calls))
    return told([*(part for event in events for part in reader.push(event.token_id, event.text)), *reader.finish()])


@pytest.mark.parametrize("reading", [read, read_in_pieces])
class TestBothWays:
    @pytest.mark.parametrize(
        ("text", "parts"),
        [
            ("hello", [("content", "hello")]),
            ("hello<|end|>", [("content", "hello")]),
            (" hello \n", [("content", "hello")]),
            ("<think>hm </think>\n\nyes", [("reasoning_content", "hm"), ("content", "yes")]),
            (CALL_OF_F, [("tool_calls", [("f", '{"x": 1}')])]),
            (
                f"<think>hm</think>\nLet me see.\n{CALL_OF_F}\n{CALL_OF_F}<|end|>",
                [
                    ("reasoning_content", "hm"),
                    ("content", "Let me see."),
                    ("tool_calls", [("f", '{"x": 1}'), ("f", '{"x": 1}')]),
                ],
            ),
            ("a < b, <thin and <tool", [("content", "a < b, <thin and <tool")]),
        ],
    )
    def test_marked_parts_are_told_apart(self, reading, text, parts):
        assert reading(text) == parts

    def test_marks_may_be_special_tokens(self, reading):
        text = f"{CHANNEL}thought\nhm{CHANNEL_END}Let me see.{CALL}call:g{{x: 1}}{CALL_END}<|end|>"
        assert reading(text, SPECIAL) == [
            ("reasoning_content", "hm"),
            ("content", "Let me see."),
            ("tool_calls", [("g", '{"x": 1}')]),
        ]

    def test_special_tokens_that_mark_nothing_are_not_in_the_text(self, reading):
        assert reading("a<|unused_9|>b<|end|><|eos|>") == [("content", "ab")]

    def test_arguments_get_the_types_that_the_tool_says(self, reading):
        text = '<tool_call>{"name": "g", "arguments": {"x": "7"}}</tool_call>'
        assert reading(text) == [("tool_calls", [("g", '{"x": 7}')])]

    def test_an_answer_may_begin_within_what_the_template_wrote(self, reading):
        assert reading("hm</think>yes", prompt_end="<think>") == [("reasoning_content", "hm"), ("content", "yes")]

    @pytest.mark.parametrize(
        ("text", "stop", "parts"),
        [
            ("<think>hm</think>yes no", (" no",), [("reasoning_content", "hm"), ("content", "yes")]),
            ("<think>hm\n</think>yes", ("\n\n",), [("reasoning_content", "hm"), ("content", "yes")]),
            (f"yes{CALL_OF_F}", ("<tool_call>",), [("content", "yes")]),
        ],
    )
    def test_a_stop_string_cuts_what_is_read(self, reading, text, stop, parts):
        assert reading(text, stop=stop) == parts

    def test_a_mark_stays_in_its_place_while_text_before_it_waits_for_a_stop_string(self, reading):
        text = f"{CHANNEL}thought\nhm.{CHANNEL_END}.yes"
        assert reading(text, SPECIAL, stop=("...",)) == [("reasoning_content", "hm."), ("content", ".yes")]

    @pytest.mark.parametrize(
        "broken",
        [
            '<tool_call>{"name": "f", "argu',  # cut at max_tokens
            "<tool_call>f(1)</tool_call> and so on",
            '<tool_call>{"arguments": {}}</tool_call> and so on',
            '<tool_call>{"name": "f", "arguments": 1}</tool_call>',
        ],
    )
    def test_a_call_that_is_none_is_content_as_it_was_written(self, reading, broken):
        assert reading(broken) == [("content", broken)]
        assert reading(f"<think>hm</think>yes {broken}") == [("reasoning_content", "hm"), ("content", f"yes {broken}")]

    def test_what_was_read_before_a_broken_call_stays_read(self, reading):
        assert reading(f"{CALL_OF_F}<tool_call>f(") == [
            ("tool_calls", [("f", '{"x": 1}')]),
            ("content", "<tool_call>f("),
        ]

    def test_calls_behind_as_many_as_wanted_are_left_out(self, reading):
        parts = [("content", "yes"), ("tool_calls", [("f", '{"x": 1}')]), ("content", "no")]
        assert reading(f"yes{CALL_OF_F}{CALL_OF_F}no", max_calls=1) == parts

    def test_a_call_that_was_not_asked_for_is_content(self, reading):
        assert reading(CALL_OF_F, tools=()) == [("content", CALL_OF_F)]

    def test_a_template_without_a_place_for_plain_text_does_not_swallow_it(self, reading):
        fields = {"tool_calls": PLAIN_MARKS["fields"]["tool_calls"]}
        tokenizer = tokenizer_with({"start_anchor": "<|assistant|>", "fields": fields})
        assert reading(" plain ", tokenizer) == [("content", " plain ")]

    @pytest.mark.parametrize(
        "template",
        [
            {"fields": {}},
            "nonsense",
            {"start_anchor": "<|assistant|>", "fields": {"content": {"content": "no such parser"}}},
            {"start_anchor": "<|assistant|>", "fields": {"verdict": {"open": "V", "optional": False}}},
        ],
    )
    def test_a_template_that_is_wrong_leaves_the_text_as_it_is(self, reading, template):
        assert reading(" <think>a ", tokenizer_with(template)) == [("content", " <think>a ")]

    def test_an_answer_of_an_end_token_has_no_parts(self, reading):
        assert reading("<|eos|>") == []


pieces = st.sampled_from(
    [
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        '{"name": "f"}',
        "<|end|>",
        "<|unused_5|>",
        "<",
        "a",
        " ",
        "é",
    ]
)


@given(text=st.lists(pieces, min_size=1, max_size=8).map("".join), stop=st.sampled_from([(), ("a<",), ("é", "</")]))
def test_an_answer_in_pieces_has_the_parts_of_the_whole(text, stop):
    assert read_in_pieces(text, stop=stop) == read(text, stop=stop)


@given(text=st.text(min_size=1))
def test_any_text_is_read_without_an_error_and_unmarked_text_is_content(text):
    parts = read(text)
    if "<" not in text:
        assert parts == ([("content", text.strip())] if text.strip() else [("content", text)])


def test_a_tokenizer_that_does_not_say_how_its_model_writes_has_no_parsing():
    assert parsing(tokenizer_with(None)) is None


def test_calls_are_complete_when_they_are_told():
    _, events = made_answer(PLAIN, ids_of(PLAIN, f"yes{CALL_OF_F}"))
    reader = ResponseReader(parsing())
    parts = [(event.text, part) for event in events for part in reader.push(event.token_id, event.text)]
    assert [part.text for _, part in parts if part.field == "content"] == ["y", "e", "s"]
    last, call = parts[-1]
    assert last == ">"
    assert json.loads(call.call["function"]["arguments"]) == {"x": 1}
