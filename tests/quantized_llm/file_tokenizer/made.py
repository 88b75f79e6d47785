"""Tokenizers of many kinds as transformers makes them, saved to folders as artifacts have them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import transformers
from packaging.version import Version
from tiny_llm import build_tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram, WordPiece
from transformers import (
    AutoTokenizer,
    BertTokenizer,
    CohereTokenizer,
    GemmaTokenizer,
    GPT2Tokenizer,
    LlamaTokenizer,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
    T5Tokenizer,
)

from mlflow_llm_plugins.quantized_llm.file_tokenizer import load_file_tokenizer
from tests.models import byte_tokenizer
from tests.openai_api.tokenizers import byte_level, metaspace, sentencepiece

IS_523 = Version(transformers.__version__) >= Version("5.23")  # older ones render some chats in another way

_TEXTS = ["the cat that bathed there", "a hot bath, then the tea", "it's here: the other one isn't"]
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_LETTERS = "▁abcdehilnorstxyé好"
_MERGES = [("▁", "t"), ("▁t", "h"), ("▁th", "e"), ("a", "t"), ("t", "h"), ("▁", "▁")]
_BYTE_MERGES = [("Ġ", "t"), ("Ġt", "h"), ("Ġth", "e"), ("a", "t"), ("â", "Ģ"), ("Ċ", "Ċ")]


def _vocabulary(special: list[str], pieces: list[str], merges: list[tuple[str, str]]) -> dict[str, int]:
    entries = dict.fromkeys([*special, *pieces, *(one + other for one, other in merges)])
    return {piece: i for i, piece in enumerate(entries)}


def _alphabet() -> list[str]:
    return sorted(pre_tokenizers.ByteLevel.alphabet())


def llama(**settings: Any) -> LlamaTokenizer:
    vocabulary = _vocabulary(["<unk>", "<s>", "</s>"], [*_BYTES, *_LETTERS], _MERGES)
    return LlamaTokenizer(vocab=vocabulary, merges=_MERGES, add_bos_token=True, **settings)


def _gemma() -> GemmaTokenizer:
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    vocabulary = _vocabulary(special, [*_BYTES, *_LETTERS], _MERGES)
    made = GemmaTokenizer(vocab=vocabulary, merges=_MERGES, add_bos_token=True)
    made.add_tokens(["<start_of_turn>", "<end_of_turn>"], special_tokens=True)
    made.add_tokens([AddedToken(text, normalized=False) for text in ("\n\n", "▁▁▁", "<h1>")])
    return made


def _qwen() -> Qwen2Tokenizer:
    vocabulary = _vocabulary(["<|endoftext|>"], _alphabet(), _BYTE_MERGES)
    made = Qwen2Tokenizer(vocab=vocabulary, merges=_BYTE_MERGES)
    made.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
    made.add_tokens([AddedToken(text, normalized=False) for text in ("<think>", "</think>", "<tool_call>")])
    made.eos_token = "<|im_end|>"
    return made


def _gpt2() -> GPT2Tokenizer:
    vocabulary = _vocabulary(["<|endoftext|>"], _alphabet(), _BYTE_MERGES)
    return GPT2Tokenizer(vocab=vocabulary, merges=_BYTE_MERGES, add_prefix_space=True)


def _cohere() -> CohereTokenizer:
    special = ["<PAD>", "<UNK>", "<CLS>", "<SEP>", "<MASK_TOKEN>", "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>"]
    return CohereTokenizer(vocab=_vocabulary(special, _alphabet(), _BYTE_MERGES), merges=_BYTE_MERGES)


def _bert() -> BertTokenizer:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*"abcdefghijklmnopqrstuvwxyz.,!?'", *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"), "the"]
    return BertTokenizer(vocab=_vocabulary(special, pieces, []), clean_up_tokenization_spaces=True)


def _t5() -> T5Tokenizer:
    pieces = ["<pad>", "</s>", "<unk>", *_LETTERS, "▁the", "▁th", "at"]
    return T5Tokenizer(vocab=[(piece, -float(i)) for i, piece in enumerate(pieces)], extra_ids=3)


def _unigram() -> PreTrainedTokenizerFast:
    """With bytes for what is no entry, and with a start and an end token by its post-processor."""
    pieces = ["<unk>", "<s>", "</s>", *_BYTES, *_LETTERS, "▁the", "▁th", "at"]
    tokenizer = Tokenizer(Unigram([(piece, -float(i)) for i, piece in enumerate(pieces)], 0, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", model_max_length=77
    )


def _wordpiece() -> PreTrainedTokenizerFast:
    """With lower-casing, and a tokenizer.json that pads and cuts."""
    pieces = ["[PAD]", "[UNK]", "the", "##at", *"abcehot.,'", *(f"##{letter}" for letter in "abcehot")]
    model = WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]")
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]", length=9)
    tokenizer.enable_truncation(4)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", clean_up_tokenization_spaces=True)


def _added() -> PreTrainedTokenizerFast:
    """With added tokens that take blanks, match whole words only, or are matched in normalized text."""
    made = sentencepiece()
    made.add_tokens(
        [
            AddedToken("<left>", lstrip=True, normalized=False),
            AddedToken("<right>", rstrip=True, special=True),
            AddedToken("hot", single_word=True),
            AddedToken("the bath", normalized=True),
        ]
    )
    return made


def _named() -> PreTrainedTokenizerFast:
    """With special tokens that have names of this model alone, and some that only the configuration has."""
    backend = byte_level().backend_tokenizer
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token=AddedToken("<|eot|>", lstrip=True, special=False),
        extra_special_tokens={"image_token": "<image>", "audio": "<audio>"},
        pad_token="<tool_call>",
        split_special_tokens=True,
    )


def _forced_clean_up() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=byte_level().backend_tokenizer,
        clean_up_tokenization_spaces=True,
        clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output=True,
    )


def _ignored_clean_up() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=byte_level().backend_tokenizer, clean_up_tokenization_spaces=True)


KINDS: dict[str, Callable[[], Any]] = {
    "bytes": byte_tokenizer,
    "byte-level": byte_level,
    "sentencepiece": sentencepiece,
    "metaspace": metaspace,
    "trained": lambda: build_tokenizer(_TEXTS, vocab_size=300),
    "llama": llama,
    "llama-no-prefix": lambda: llama(add_prefix_space=False),
    "gemma": _gemma,
    "qwen": _qwen,
    "gpt2": _gpt2,
    "cohere": _cohere,
    "bert": _bert,
    "t5": _t5,
    "unigram": _unigram,
    "wordpiece": _wordpiece,
    "added": _added,
    "named": _named,
    "forced-clean-up": _forced_clean_up,
    "ignored-clean-up": _ignored_clean_up,
}


class Pair(NamedTuple):
    """The same files, read by both."""

    theirs: Any  # AutoTokenizer's
    ours: Any


def read_by_both(folder: Path) -> Pair:
    return Pair(AutoTokenizer.from_pretrained(folder), load_file_tokenizer(folder, name="made"))


@cache
def pair(kind: str) -> Pair:
    """Of a tokenizer that was saved; neither is to be changed."""
    with TemporaryDirectory() as folder:
        KINDS[kind]().save_pretrained(folder)
        return read_by_both(Path(folder))
