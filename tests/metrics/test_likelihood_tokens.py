"""Bytes that are scored, of tokenizers that cut texts inside their characters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from mlflow_llm_plugins.metrics.likelihood.tokens import TextEncoder
from tests.metrics.context_engine import starting_tokenizer
from tests.models import BOS, byte_tokenizer

SAMPLE = "循环会重复执行 это цикл 🙂🙃 éèñ naïve loops repeat " * 5


def byte_level(*, add_prefix_space: bool = False) -> PreTrainedTokenizerFast:
    """GPT-2's kind: its tokens hold some bytes each, in an alphabet with a letter a byte."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([SAMPLE], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def byte_fallback() -> PreTrainedTokenizerFast:
    """Llama 2's kind: characters, and the bytes of those that it does not know."""
    known = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"aeйä循"]
    model = BPE({token: i for i, token in enumerate(known)}, [], byte_fallback=True, unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


BYTE_LEVEL, PREFIXED, FALLBACK = byte_level(), byte_level(add_prefix_space=True), byte_fallback()
texts = st.text(min_size=1, max_size=12) | st.text("循环🙂éйñ a", min_size=1, max_size=12)


def first_token(tokenizer, text):
    return tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids)[0]


@given(text=texts)
def test_all_bytes_behind_the_first_token_of_a_byte_level_tokenizer_count(text):
    expected = len(text.encode()) - len(first_token(BYTE_LEVEL, text))
    assert TextEncoder(BYTE_LEVEL).encode(text).byte_count == expected


@given(text=texts)
def test_all_bytes_behind_the_first_token_count_where_unknown_characters_fall_back_to_bytes(text):
    token = first_token(FALLBACK, text)
    own = 1 if token.startswith("<0x") or (token == "▁" and text[0] == " ") else len(token.encode())
    assert TextEncoder(FALLBACK).encode(text).byte_count == len(text.encode()) - own


@given(text=st.text("循🙂é a", max_size=12))
def test_all_bytes_count_behind_a_start_token_that_is_added_or_written(text):
    for tokenizer, written in ((starting_tokenizer(), ""), (starting_tokenizer(), BOS), (byte_tokenizer(), BOS)):
        assert TextEncoder(tokenizer).encode(written + text).byte_count == len(text.encode())


@pytest.mark.parametrize(
    ("text", "tokens", "byte_count"),
    [
        ("鱼", ["Ġ", "é", "±", "¼"], 3),
        ("xy", ["Ġ", "x", "y"], 2),
        (" 鱼", ["Ġ", "é", "±", "¼"], 3),
        ("ы", ["ĠÑ", "ĭ"], 1),
        ("éa", ["Ġ", "Ã", "©", "a"], 3),
    ],
)
def test_a_blank_that_the_tokenizer_adds_is_no_byte_of_the_text(text, tokens, byte_count):
    assert PREFIXED.convert_ids_to_tokens(PREFIXED(text).input_ids) == tokens
    assert TextEncoder(PREFIXED).encode(text).byte_count == byte_count


def test_a_character_that_was_replaced_by_several_counts_where_its_second_part_is_predicted():
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
    assert TextEncoder(tokenizer).encode("ﬁn").byte_count == 4
