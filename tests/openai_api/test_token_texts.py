"""The bytes of tokens, one after the other, are the text; what is no text is named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_llm_plugins.openai_api import TokenTexts
from tests.models import byte_tokenizer
from tests.openai_api.tokenizers import byte_level, metaspace, sentencepiece

KINDS = {"bytes": byte_tokenizer(), "byte_level": byte_level(), "sentencepiece": sentencepiece()}
plain_texts = st.text().filter(lambda text: "▁" not in text and "<" not in text)  # no token is written in them


def written(tokenizer, ids):
    texts = TokenTexts(tokenizer)
    return b"".join(texts[token_id].bytes or b"" for token_id in ids)


def decoded(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("kind", KINDS)
@given(text=plain_texts)
def test_the_bytes_of_a_text_s_tokens_are_its_own(kind, text):
    tokenizer = KINDS[kind]
    ids = tokenizer(text, add_special_tokens=False).input_ids
    dropped = b" " if kind == "sentencepiece" and text else b""
    assert written(tokenizer, ids) == dropped + text.encode()


@given(text=st.text("abehlotxé ").map(str.strip))
def test_a_vocabulary_without_bytes_is_read_as_it_decodes(text):
    tokenizer = metaspace()
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert written(tokenizer, ids).decode().removeprefix(" ") == decoded(tokenizer, ids)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_any_tokens_together_are_what_they_decode_to(kind, data):
    tokenizer = KINDS[kind]
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=12))
    text = written(tokenizer, ids).decode("utf-8", "replace")
    if "\ufffd" not in text:  # a broken character is more than one "\ufffd" to some decoders
        dropped = text.startswith(" ") and kind == "sentencepiece"
        assert text[dropped:] == decoded(tokenizer, ids)


@pytest.mark.parametrize("kind", KINDS)
def test_the_bytes_of_each_token_are_those_that_llguidance_finds(kind):
    LLTokenizer = pytest.importorskip("llguidance").LLTokenizer
    tokenizer, texts = KINDS[kind], TokenTexts(KINDS[kind])
    peer = LLTokenizer(tokenizer.backend_tokenizer.to_str())
    added = tokenizer.added_tokens_decoder
    ids = [i for i in range(len(tokenizer)) if i not in added and texts[i].bytes != b"\xff"]  # its own mark
    assert len(ids) > 250
    assert {i: texts[i].bytes for i in ids} == {i: peer.decode_bytes([i]) for i in ids}


def test_a_part_of_a_character_is_written_as_its_bytes():
    tokenizer = byte_level()
    texts = TokenTexts(tokenizer)
    dash = [texts[token_id] for token_id in tokenizer("—").input_ids]
    assert [(text.name, text.bytes, text.is_whole) for text in dash] == [
        (r"\xe2\x80", b"\xe2\x80", False),
        (r"\x94", b"\x94", False),
    ]
    space = texts[tokenizer.convert_tokens_to_ids("Ġâ")]
    assert (space.name, space.bytes) == (r" \xe2", b" \xe2")


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_have_a_name_and_no_bytes(kind):
    tokenizer = KINDS[kind]
    special = TokenTexts(tokenizer)[tokenizer.eos_token_id]
    assert (special.name, special.bytes, special.is_whole) == (tokenizer.eos_token, None, True)


@pytest.mark.parametrize("added", ["<tool_call>", "<｜tool▁sep｜>"])
@pytest.mark.parametrize("tokenizer", [byte_level(), sentencepiece()], ids=["byte_level", "sentencepiece"])
def test_added_tokens_that_are_not_special_are_text(tokenizer, added):
    token_id = tokenizer.convert_tokens_to_ids(added)
    text = TokenTexts(tokenizer)[token_id]
    assert text.bytes.decode() == text.name == tokenizer.decode([token_id])


def test_an_id_that_no_token_has_is_named_by_its_number():
    text = TokenTexts(byte_level())[9999]
    assert (text.name, text.bytes) == ("token_id:9999", b"")
