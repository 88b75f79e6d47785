"""Answers are read from bytes as they come: content, gaps, usage, and what is wrong with them."""

from __future__ import annotations

import contextlib
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_llm_plugins.loadtest.answers import AnswerError, StreamedAnswer, WholeAnswer, error_code

SEPARATORS = st.sampled_from([(",", ":"), (", ", ": ")])
TRICKY = st.sampled_from(['"finish_reason":"stop"', '"error"', "error", "data: [DONE]\n\n", '"usage": {"x": 1}', '""'])
TEXTS = st.lists(st.text() | TRICKY, min_size=1, max_size=8)
USAGE = {"prompt_tokens": 3, "completion_tokens": 17}


def line(chunk: object, separators: tuple[str, str] = (",", ":")) -> bytes:
    return b"data: " + json.dumps(chunk, separators=separators).encode() + b"\n\n"


def choice(text: str, finish_reason: str | None = None, key: str = "delta") -> dict:
    said = {"delta": {"content": text}} if key == "delta" else {"text": text}
    return {"choices": [{"index": 0, **said, "logprobs": None, "finish_reason": finish_reason}], "usage": None}


def read(stream: bytes) -> StreamedAnswer:
    """The answer, when the bytes of each line come a second after the last one's."""
    answer = StreamedAnswer()
    for second, part in enumerate(stream.splitlines(keepends=True)):
        answer.feed(part, float(second))
    answer.end()
    return answer


@given(texts=TEXTS, separators=SEPARATORS, key=st.sampled_from(["delta", "text"]))
def test_every_chunk_with_text_and_no_other_counts_as_content(texts, separators, key):
    chunks = [choice(text, key=key) for text in texts]
    end = [choice("x", "length", key=key), {"choices": [], "usage": USAGE}]
    answer = read(b"".join(line(chunk, separators) for chunk in [*chunks, *end]) + b"data: [DONE]\n\n")
    times = [2.0 * number for number, text in enumerate([*texts, "x"]) if text]  # two lines a chunk
    assert answer.first == times[0]
    assert answer.gaps == [after - before for before, after in itertools.pairwise(times)]
    assert answer.last == 2.0 * (len(texts) + 1), "the usage is the last chunk, and [DONE] is none"
    assert answer.tokens("completion_tokens") == 17


@given(texts=TEXTS, cuts=st.lists(st.integers(0, 2000), max_size=12), line_end=st.sampled_from([b"\n", b"\r\n"]))
def test_answer_is_the_same_however_the_bytes_are_cut(texts, cuts, line_end):
    chunks = [*map(choice, texts), choice("x", "stop"), {"choices": [], "usage": USAGE}]
    stream = b"".join(map(line, chunks)).replace(b"\n", line_end) + b"data: [DONE]" + line_end * 2
    answer = StreamedAnswer()
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    for begin, end in itertools.pairwise(edges):
        answer.feed(stream[begin:end], 1.0)
    answer.end()
    assert len(answer.gaps) == sum(map(bool, texts))
    assert (answer.tokens("prompt_tokens"), answer.tokens("completion_tokens")) == (3, 17)


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_thoughts_are_content(field):
    thought = {"choices": [{"index": 0, "delta": {field: "hm"}, "finish_reason": None}]}
    answer = read(line(choice("")) + line(thought) + line(choice("", "stop")))
    assert answer.first == 2.0


def test_comments_and_other_fields_of_events_are_passed_over():
    answer = read(b": ping\n\nevent: message\n" + line(choice("A", "stop")))
    assert answer.first == 3.0


@pytest.mark.parametrize(
    ("stream", "kind"),
    [
        (line(choice("A")), "cut off"),
        (b"", "cut off"),
        (line(choice("", "stop")), "empty answer"),
        (b"data: {]\n\n", "malformed answer"),
        (line(choice("A")) + line({"error": {"message": "A", "code": "nan"}}), "error in the stream nan"),
        (line(choice("A")) + b'data: {"error": "what "A" said"}\n\n', "error in the stream"),
        (line({"object": "error", "message": "A", "type": "Busy"}), "error in the stream Busy"),
        (line(["A"]), "malformed answer"),
    ],
)
def test_stream_that_is_no_whole_answer_says_what_kind(stream, kind):
    with pytest.raises(AnswerError) as error:
        read(stream)
    assert str(error.value) == kind


KEYS = ["choices", "delta", "content", "text", "usage", "finish_reason", "error"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner),
)


@given(st.lists(JSON.map(json.dumps).map(str.encode) | st.binary(), max_size=4))
def test_nonsense_is_a_failure_and_never_an_error_of_the_generator(chunks):
    stream, whole = StreamedAnswer(), WholeAnswer()
    with contextlib.suppress(AnswerError):
        for chunk in chunks:
            stream.feed(b"data: " + chunk + b"\n", 1.0)
        stream.end()
    with contextlib.suppress(AnswerError):
        whole.feed(b"".join(chunks[:1]), 1.0)
        whole.end()
    assert (stream.tokens("completion_tokens"), whole.tokens("completion_tokens")) == (None, None)


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({"choices": [], "usage": USAGE}, 17),
        ([{"choices": [], "usage": USAGE}], 17),  # stock MLflow
        ({"predictions": ["A"]}, None),
        ({"choices": [], "usage": {"completion_tokens": None}}, None),  # a gateway in front of stock MLflow
        (["A", "B"], None),
        ("A", None),
    ],
)
def test_whole_answer_has_the_tokens_of_its_usage_or_none(body, tokens):
    answer = WholeAnswer()
    sent = json.dumps(body).encode()
    answer.feed(sent[:3], 1.0)
    answer.feed(sent[3:], 2.0)
    answer.end()
    assert (answer.tokens("completion_tokens"), answer.first, answer.last) == (tokens, None, 2.0)


def test_whole_answer_that_is_no_json_is_malformed():
    answer = WholeAnswer()
    answer.feed(b"<html>", 1.0)
    with pytest.raises(AnswerError, match="malformed answer"):
        answer.end()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (
            {"error": {"message": "no", "type": "invalid_request", "param": "top_k", "code": 400}},
            " invalid_request top_k",
        ),
        ({"error_code": "BAD_REQUEST", "message": "no"}, " BAD_REQUEST"),  # MLflow
        ({"detail": "no"}, ""),  # FastAPI
        ({"error": {"code": "what the prompt said"}}, ""),
        ({"error": "no"}, ""),
        ([], ""),
    ],
)
def test_error_is_named_by_its_codes_and_never_by_its_message(body, code):
    assert error_code(json.dumps(body).encode()) == code
