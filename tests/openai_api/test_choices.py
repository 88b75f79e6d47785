"""A choice in pieces is the same as at once, and its chunks are what OpenAI's client reads."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_llm_plugins.openai_api import (
    ChatChunks,
    CompletionChunks,
    Echo,
    ResponseParsing,
    TokenTexts,
    chat_completion,
    text_completion,
)
from tests.openai_api.made_answers import made_answer
from tests.openai_api.response_templates import PLAIN_MARKS, ids_of, tokenizer_with
from tests.openai_api.tokenizers import byte_level

TOKENIZER = byte_level()
TEXTS = TokenTexts(TOKENIZER)
MARKING = tokenizer_with(PLAIN_MARKS)
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
PARSING = ResponseParsing.of(MARKING, TokenTexts(MARKING), ids_of(MARKING, "<|assistant|>"), TOOLS)
CALL = '<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>'
any_tokens = st.lists(st.integers(0, len(TOKENIZER) - 1), min_size=1, max_size=12)
any_stop = st.sampled_from([(), ("a",), ("th", "—"), ("abc", "!\ufffd")])


@pytest.fixture
def openai_types():
    return pytest.importorskip("openai.types")


def sent(chunks, output, events, index=0):
    choice = chunks.choice(index)
    opening = choice.opening()
    pieces = [chunk for event in events for chunk in choice.push(event)]
    return [*opening, *pieces, *choice.finish(output.finish_reason)]


def chat_chunks(text, *, top_logprobs=None, parsing=PARSING):
    output, events = made_answer(MARKING, ids_of(MARKING, text), top_logprobs=top_logprobs)
    texts = None if top_logprobs is None else TokenTexts(MARKING)
    return sent(ChatChunks("m", token_texts=texts, parsing=parsing), output, events, index=2)


def put_together(chunks):
    """The message, the rows and the finish reason of a chat that came in chunks."""
    message, rows, calls = defaultdict(str), [], []
    for chunk in chunks:
        (choice,) = chunk["choices"]
        for name, value in choice["delta"].items():
            if name == "tool_calls":
                calls += value
            else:
                message[name] += value
        rows += choice["logprobs"]["content"] if choice["logprobs"] else []
    return dict(message), calls, rows, chunks[-1]["choices"][0]["finish_reason"]


def test_a_chat_comes_with_its_role_its_text_and_its_end(openai_types):
    chunks = chat_chunks("hi<|eos|>", parsing=None)
    read = [openai_types.chat.ChatCompletionChunk.model_validate(chunk) for chunk in chunks]
    assert [chunk.model_dump(exclude_unset=True) for chunk in read] == chunks
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas == [{"role": "assistant", "content": ""}, {"content": "h"}, {"content": "i"}, {}]
    assert {chunk["choices"][0]["index"] for chunk in chunks} == {2}
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_calls_come_whole_and_numbered_and_the_chat_ends_for_them(openai_types):
    chunks = chat_chunks(f"<think>hm</think>yes {CALL}{CALL}<|eos|>")
    for chunk in chunks:
        read = openai_types.chat.ChatCompletionChunk.model_validate(chunk)
        assert read.model_dump(exclude_unset=True) == chunk
    message, calls, _, reason = put_together(chunks)
    assert message == {"role": "assistant", "content": "yes", "reasoning_content": "hm"}
    assert [(call["index"], call["function"]["arguments"]) for call in calls] == [(0, '{"x": 1}'), (1, '{"x": 1}')]
    assert len({call["id"] for call in calls}) == 2
    assert reason == "tool_calls"


@pytest.mark.parametrize("text", [f"<think>hm</think>yes {CALL}<|eos|>", "é<tool_call>{", "plain", "<|eos|>"])
def test_a_chat_in_chunks_is_the_whole_one(text):
    output, _ = made_answer(MARKING, ids_of(MARKING, text), top_logprobs=1)
    whole = chat_completion("m", [output], token_texts=TokenTexts(MARKING), parsing=PARSING)["choices"][0]
    message, calls, rows, reason = put_together(chat_chunks(text, top_logprobs=1))
    assert message["content"] == (whole["message"]["content"] or "")
    assert message.get("reasoning_content") == whole["message"].get("reasoning_content")
    assert [call["function"] for call in calls] == [
        call["function"] for call in whole["message"].get("tool_calls", [])
    ]
    assert rows == whole["logprobs"]["content"]
    assert reason == whole["finish_reason"]


def completion_chunks(ids, stop, echo=None):
    output, events = made_answer(TOKENIZER, ids, stop=stop, top_logprobs=2)
    chunks = CompletionChunks("m", token_texts=TEXTS, echoes=[Echo("no"), echo] if echo else ())
    whole = text_completion("m", [[output]], token_texts=TEXTS, echoes=[echo] if echo else None)["choices"][0]
    return sent(chunks, output, events, index=1), whole


def all_columns(chunks):
    columns = defaultdict(list)
    for chunk in chunks:
        for name, column in chunk["choices"][0]["logprobs"].items():
            columns[name] += column
    return columns


@given(ids=any_tokens, stop=any_stop)
def test_a_completion_in_chunks_is_the_whole_one(ids, stop):
    chunks, whole = completion_chunks(ids, stop)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["text"]
    assert all_columns(chunks) == whole["logprobs"]
    assert chunks[-1]["choices"][0]["finish_reason"] == whole["finish_reason"]


@given(ids=any_tokens, stop=any_stop)
def test_an_echoed_prompt_is_the_first_chunk(ids, stop):
    class Scores(list):
        top_logprobs = ()

    prompt_ids = TOKENIZER("a —?").input_ids
    echo = Echo.of(TOKENIZER, prompt_ids, Scores(-0.5 for _ in prompt_ids[1:]))
    chunks, whole = completion_chunks(ids, stop, echo)
    first = chunks[0]["choices"][0]
    assert first["text"] == "a —?"
    assert first["logprobs"]["token_logprobs"] == [None, *[-0.5] * (len(prompt_ids) - 1)]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["text"]
    assert all_columns(chunks) == whole["logprobs"]


def test_a_prompt_alone_is_a_stream_too():
    choice = CompletionChunks("m", echoes=[Echo("a prompt")]).choice(0)
    chunks = [*choice.opening(), *choice.finish("length")]
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["a prompt", ""]
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


def test_a_token_without_a_text_of_its_own_gives_no_chunk_and_its_number_comes_with_the_next():
    _, events = made_answer(TOKENIZER, TOKENIZER("—").input_ids, top_logprobs=0)
    choice = CompletionChunks("m", token_texts=TEXTS).choice(0)
    first, second = [choice.push(event) for event in events]
    assert first == []
    (chunk,) = second
    assert chunk["choices"][0]["text"] == "—"
    assert chunk["choices"][0]["logprobs"]["token_logprobs"] == [-1.0, -2.0]
