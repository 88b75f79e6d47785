"""Text is exact, whole characters only, and a stop string is never shown, however the tokens cut it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_llm_plugins.generation.detokenize import Detokenizer, StopStrings
from tests.models import byte_tokenizer

TOKENIZER = byte_tokenizer()


def streamed(text, stop=()):
    detokenizer = Detokenizer(TOKENIZER, stop)
    pieces = []
    for token_id in TOKENIZER(text).input_ids:
        pieces.append(detokenizer.push(token_id))
        if detokenizer.stopped:
            return pieces, detokenizer
    return [*pieces, detokenizer.flush()], detokenizer


def cut_at_first_stop(text, stops):
    """The text before the stop string that ends first; of those that end together, the longest."""
    ends = [(text.find(stop) + len(stop), -len(stop)) for stop in stops if stop in text]
    return text if not ends else text[: min(ends)[0] + min(ends)[1]]


@given(st.text())
def test_pieces_join_to_the_whole_text(text):
    pieces, _ = streamed(text)
    assert "".join(pieces) == TOKENIZER.decode(TOKENIZER(text).input_ids, skip_special_tokens=True)


@pytest.mark.parametrize("text", ["naïve café", "👩‍👩‍👧‍👦 family", "日本語のテキスト", "שלום", "🇩🇪🇫🇷"])
def test_no_piece_shows_half_a_character(text):
    pieces, _ = streamed(text)
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces)


def test_a_character_cut_off_at_the_end_is_shown_as_a_replacement():
    detokenizer = Detokenizer(TOKENIZER)
    ids = TOKENIZER("é").input_ids
    assert detokenizer.push(ids[0]) == ""
    assert detokenizer.flush() == "\ufffd"


@given(st.text("abc", max_size=40), st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3))
def test_the_text_ends_before_the_stop_string_that_ends_first(text, stops):
    pieces, detokenizer = streamed(text, tuple(stops))
    assert "".join(pieces) == cut_at_first_stop(text, stops)
    assert detokenizer.stopped == any(stop in text for stop in stops)


@given(
    st.text("ab", max_size=30),
    st.lists(st.integers(1, 5), min_size=30, max_size=30),
    st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_how_the_text_is_cut_into_pieces_changes_nothing(text, sizes, stops):
    def let_through(pieces):
        filtered = StopStrings(tuple(stops))
        shown = "".join(filtered.push(piece) for piece in pieces)
        return shown + ("" if filtered.met else filtered.flush())

    pieces, rest = [], text
    for size in sizes:
        pieces.append(rest[:size])
        rest = rest[size:]
    assert let_through([*pieces, rest]) == let_through(list(text))


def test_special_tokens_are_left_out():
    detokenizer = Detokenizer(TOKENIZER)
    ids = [TOKENIZER.bos_token_id, *TOKENIZER("hi").input_ids, TOKENIZER.eos_token_id]
    assert "".join(detokenizer.push(i) for i in ids) + detokenizer.flush() == "hi"
