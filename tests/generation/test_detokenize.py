"""Text is exact, whole characters only, and a stop string is never shown, however the tokens cut it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from mlflow_llm_plugins.generation.detokenize import Detokenizer, StopStrings
from mlflow_llm_plugins.quantized_llm.file_tokenizer import load_file_tokenizer
from tests.models import byte_tokenizer

TOKENIZER = byte_tokenizer()


@pytest.fixture(scope="module", params=["transformers", "files alone"])
def tokenizer(request, tmp_path_factory):
    """The same tokenizer, as transformers loads it and as it is read without transformers."""
    if request.param == "transformers":
        return TOKENIZER
    folder = tmp_path_factory.mktemp("tokenizer")
    TOKENIZER.save_pretrained(folder)
    return load_file_tokenizer(folder, name="bytes")


def streamed(text, stop=(), tokenizer=TOKENIZER):
    detokenizer = Detokenizer(tokenizer, stop)
    pieces = []
    for token_id in tokenizer(text).input_ids:
        pieces.append(detokenizer.push(token_id))
        if detokenizer.stopped:
            return pieces, detokenizer
    return [*pieces, detokenizer.flush()], detokenizer


def cut_at_first_stop(text, stops):
    """The text before the stop string that ends first; of those that end together, the longest."""
    ends = [(text.find(stop) + len(stop), -len(stop)) for stop in stops if stop in text]
    return text if not ends else text[: min(ends)[0] + min(ends)[1]]


@given(st.text())
def test_pieces_join_to_the_whole_text(tokenizer, text):
    pieces, _ = streamed(text, tokenizer=tokenizer)
    assert "".join(pieces) == TOKENIZER.decode(TOKENIZER(text).input_ids, skip_special_tokens=True)


@pytest.mark.parametrize("text", ["naïve café", "👩‍👩‍👧‍👦 family", "日本語のテキスト", "שלום", "🇩🇪🇫🇷"])
def test_no_piece_shows_half_a_character(tokenizer, text):
    pieces, _ = streamed(text, tokenizer=tokenizer)
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces)


def test_a_character_cut_off_at_the_end_is_shown_as_a_replacement(tokenizer):
    detokenizer = Detokenizer(tokenizer)
    ids = tokenizer("é").input_ids
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


def test_special_tokens_are_left_out(tokenizer):
    detokenizer = Detokenizer(tokenizer)
    ids = [tokenizer.bos_token_id, *tokenizer("hi").input_ids, tokenizer.eos_token_id]
    assert "".join(detokenizer.push(i) for i in ids) + detokenizer.flush() == "hi"


@pytest.fixture(scope="module")
def sentencepiece():
    """A tokenizer of the Llama 2 kind: spaces as a letter of their own, unknown characters as bytes."""
    words = ["\u2581", *"abcdefghijklmnopqrstuvwxyz", "\u2581lo", "\u2581b"]
    tokens = ["<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    tokenizer = Tokenizer(BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize(("prompt", "text"), [(["a", "b"], " lo b"), (["<s>"], "lo b"), ([], "lo b")])
def test_an_answer_keeps_the_space_that_separates_it_from_its_prompt(sentencepiece, prompt, text):
    ids = sentencepiece.convert_tokens_to_ids
    detokenizer = Detokenizer(sentencepiece, (), [ids(token) for token in prompt])
    pieces = [detokenizer.push(ids(token)) for token in ["\u2581lo", "\u2581b"]]
    assert "".join(pieces) + detokenizer.flush() == text


@given(st.data())
def test_bytes_that_make_no_character_never_break_an_answer(sentencepiece, data):
    ids = data.draw(st.lists(st.integers(2, len(sentencepiece) - 1), max_size=15))
    detokenizer = Detokenizer(sentencepiece)
    text = "".join(detokenizer.push(token_id) for token_id in ids) + detokenizer.flush()
    words = "".join(sentencepiece.convert_ids_to_tokens([i for i in ids if i >= 258])).replace("\u2581", "")
    shown = iter(text)
    assert all(letter in shown for letter in words)  # no letter is lost, and they stay in order
