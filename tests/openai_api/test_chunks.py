"""Chunks are what OpenAI's client reads, and together they are the answer."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from mlflow_llm_plugins.openai_api import ChatChunks, CompletionChunks, usage


@pytest.fixture
def openai_types():
    return pytest.importorskip("openai.types")


@dataclass
class Output:
    text: str = "ab"
    prompt_tokens: int = 5
    completion_tokens: int = 2
    finish_reason: str = "stop"
    cached_tokens: int = 3


def stream(chunks, index=0):
    return [
        *chunks.opening(index),
        chunks.delta(index, "a"),
        chunks.delta(index, "b"),
        chunks.finish(index, "stop"),
        *chunks.closing([[Output()]]),
    ]


def test_a_chat_stream_has_the_role_first_and_the_finish_reason_last(openai_types):
    chunks = stream(ChatChunks("m"), index=2)
    read = [openai_types.chat.ChatCompletionChunk.model_validate(chunk) for chunk in chunks]
    assert [chunk.model_dump(exclude_unset=True) for chunk in read] == chunks
    assert read[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].delta.content for chunk in read] == ["", "a", "b", None]
    assert [chunk.choices[0].finish_reason for chunk in read] == [None, None, None, "stop"]
    assert {chunk.choices[0].index for chunk in read} == {2}


def test_a_completion_stream_has_text_and_then_the_finish_reason(openai_types):
    chunks = stream(CompletionChunks("m"))
    # OpenAI's type asks for a finish reason in each, which neither its server nor its client does
    read = [openai_types.Completion.construct(**chunk) for chunk in chunks]
    assert [chunk.choices[0].text for chunk in read] == ["a", "b", ""]
    assert [chunk.choices[0].finish_reason for chunk in read] == [None, None, "stop"]
    assert openai_types.Completion.model_validate(chunks[-1]).object == "text_completion"


@pytest.mark.parametrize(("kind", "prefix"), [(ChatChunks, "chatcmpl-"), (CompletionChunks, "cmpl-")])
def test_all_chunks_of_one_answer_have_one_id(kind, prefix):
    (one,) = {chunk["id"] for chunk in stream(kind("m"))}
    (other,) = {chunk["id"] for chunk in stream(kind("m"))}
    assert one.startswith(prefix)
    assert one != other


@pytest.mark.parametrize("kind", [ChatChunks, CompletionChunks])
def test_usage_comes_in_a_last_chunk_without_choices_where_it_was_asked_for(kind):
    *earlier, last = stream(kind("m", include_usage=True))
    assert last["choices"] == []
    assert last["usage"] == usage([[Output()]])
    assert last["usage"]["prompt_tokens_details"] == {"cached_tokens": 3}
    assert all(chunk["usage"] is None for chunk in earlier)
    assert all("usage" not in chunk for chunk in stream(kind("m")))
