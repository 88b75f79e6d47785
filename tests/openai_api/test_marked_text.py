"""Special tokens come back where they were, however late an engine gives the text between them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_llm_plugins.openai_api import TokenTexts
from mlflow_llm_plugins.openai_api.marked_text import MarkedText
from tests.openai_api.made_answers import made_answer
from tests.openai_api.tokenizers import byte_level, sentencepiece

KINDS = {"byte_level": byte_level(), "sentencepiece": sentencepiece()}
MARK = "<s>"  # special, and no end token


def with_marks(tokenizer, text):
    """Token ids of a text in which special tokens are written."""
    parts = text.split(MARK)
    ids = [tokenizer(part, add_special_tokens=False).input_ids for part in parts]
    return [token_id for part in ids for token_id in [*part, tokenizer.bos_token_id]][:-1]


def marked(tokenizer, ids, stop=()):
    _, events = made_answer(tokenizer, ids, stop=stop)
    text = MarkedText(TokenTexts(tokenizer))
    return "".join(text.push(event.token_id, event.text) for event in events)


@given(parts=st.lists(st.text("abehlot —好\n"), min_size=2, max_size=4))
def test_the_text_is_the_one_that_special_tokens_stand_in(parts):
    text = MARK.join(parts)
    tokenizer = KINDS["byte_level"]
    assert marked(tokenizer, with_marks(tokenizer, text), stop=("\n\n\n\n\n\n", "aaaaaaa")) == text


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("ab<s>cd", ("b", "bcd"), "a"),
        ("ab<s>cd", ("bx",), "ab<s>cd"),  # the engine gives b when it sees c
        ("ab<s>cd", ("bcd",), "a"),
        ("<s>ab<s>cd<s>", ("cd",), "<s>ab<s>"),
        ("—<s>—", (), "—<s>—"),
    ],
)
def test_a_mark_waits_for_the_text_before_it(text, stop, expected):
    tokenizer = KINDS["byte_level"]
    assert marked(tokenizer, with_marks(tokenizer, text), stop) == expected


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data(), stop=st.sampled_from([(), ("a",), ("th", "\ufffd")]))
def test_without_the_marks_it_is_the_text_of_the_answer(kind, data, stop):
    tokenizer = KINDS[kind]
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), min_size=1, max_size=12))
    output, events = made_answer(tokenizer, ids, stop=stop)
    text = MarkedText(TokenTexts(tokenizer))
    whole = "".join(text.push(event.token_id, event.text) for event in events)
    for mark in text.marks:
        whole = whole.replace(mark, "")
    assert whole == output.text
