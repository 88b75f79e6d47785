"""Texts and token ids go over into one another as with transformers, whatever the tokenizer is."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.quantized_llm.file_tokenizer.made import KINDS, pair

each_kind = pytest.mark.parametrize("kind", KINDS)
PIECES = [
    *[
        "the bath",
        " hot",
        "hot",
        "Hot",
        "t",
        "好",
        "é",
        "é",
        "😀",
        "\n",
        "\n\n",
        "  ",
        " ",
        "▁",
        "'s",
        " .",
        " n't",
        "\t",
    ],
    *["<s>", "</s>", "<unk>", "<|end|>", "<|im_end|>", "<end_of_turn>", "<image>", "<tool_call>", "<think>", "<left>"],
    *["<right>", "[SEP]", "[MASK]", "<extra_id_0>", "<|eot|>", "<0xE2>", "\U000f0000", "\x00", "—", "’"],
]
TEXTS = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=6)), max_size=8).map("".join)
FEW = settings(max_examples=60)


@each_kind
@FEW
@given(text=TEXTS)
def test_texts_have_the_ids_that_transformers_gives_them(kind, text):
    theirs, ours = pair(kind)
    for add_special_tokens in (True, False):
        expected = theirs(text, add_special_tokens=add_special_tokens, return_offsets_mapping=True)
        got = ours(text, add_special_tokens=add_special_tokens, return_offsets_mapping=True, verbose=False)
        assert got.input_ids == got["input_ids"] == expected["input_ids"]
        assert got["offset_mapping"] == expected["offset_mapping"]
        assert got.tokens() == expected.tokens()


@each_kind
@FEW
@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
def test_several_texts_have_the_ids_of_each(kind, texts):
    theirs, ours = pair(kind)
    got = ours(texts)
    assert got.input_ids == theirs(texts).input_ids == [ours(text).input_ids for text in texts]
    assert got.tokens(len(texts) - 1) == theirs(texts).tokens(len(texts) - 1)


@each_kind
@FEW
@given(data=st.data())
def test_ids_have_the_text_that_transformers_gives_them(kind, data):
    theirs, ours = pair(kind)
    ids = data.draw(st.lists(st.integers(0, len(theirs) + 3), max_size=12))
    for skip in (True, False):
        for clean_up in (True, False, None):
            options = {"skip_special_tokens": skip, "clean_up_tokenization_spaces": clean_up}
            assert ours.decode(ids, **options) == theirs.decode(ids, **options)


@each_kind
def test_the_vocabulary_is_that_of_transformers(kind):
    theirs, ours = pair(kind)
    assert ours.is_fast is True
    assert (len(ours), ours.vocab_size, ours.get_vocab()) == (len(theirs), theirs.vocab_size, theirs.get_vocab())
    assert ours.added_tokens_decoder == theirs.added_tokens_decoder
    ids = [*range(len(theirs)), len(theirs) + 5]
    assert ours.convert_ids_to_tokens(ids) == theirs.convert_ids_to_tokens(ids)
    assert [ours.convert_ids_to_tokens(i) for i in ids] == ours.convert_ids_to_tokens(ids)
    tokens = [*theirs.get_vocab(), "no entry"]
    assert ours.convert_tokens_to_ids(tokens) == theirs.convert_tokens_to_ids(tokens)
    assert ours.convert_tokens_to_ids("no entry") == theirs.convert_tokens_to_ids("no entry")


@each_kind
def test_special_tokens_are_those_of_transformers(kind):
    theirs, ours = pair(kind)
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        assert getattr(ours, name) == getattr(theirs, name)
        assert getattr(ours, f"{name}_id") == getattr(theirs, f"{name}_id")
    assert ours.all_special_tokens == theirs.all_special_tokens
    assert ours.all_special_ids == theirs.all_special_ids
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert ours.model_max_length == theirs.model_max_length


# "named": transformers makes a named token special where it reads it, and has a plain one in memory
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "named"])
def test_what_was_saved_reads_texts_as_what_was_in_memory(kind):
    made, ours = KINDS[kind](), pair(kind).ours
    for text in ["".join(PIECES), "", " the bath", *PIECES]:
        assert ours(text).input_ids == made(text).input_ids
        assert ours.decode(ours(text).input_ids) == made.decode(made(text).input_ids)


def test_a_single_id_has_a_text():
    theirs, ours = pair("sentencepiece")
    assert ours.decode(262) == theirs.decode(262)


def test_texts_are_neither_padded_nor_cut_where_the_file_says_so():
    ours = pair("wordpiece").ours
    assert len(ours("the the the the the the").input_ids) == 6
    assert ours.pad_token == "[PAD]"


def test_threads_get_the_ids_of_their_own_texts():
    ours = pair("trained").ours
    texts = [f"{i} the bath {'at' * i}" for i in range(60)]
    expected = [ours(text).input_ids for text in texts]
    start = threading.Barrier(4, timeout=60)

    def encode(_):
        start.wait()
        return [ours(text).input_ids for text in texts]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(encode, range(4), timeout=60)) == [expected] * 4
