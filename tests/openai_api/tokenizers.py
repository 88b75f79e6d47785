"""Tokenizers of the kinds that models have, made in memory; each can write any text."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

END = "</s>"
_SPECIAL = ["<unk>", "<s>", END]
_ENDS = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": END}


def byte_level() -> PreTrainedTokenizerFast:
    """As GPT-2's and Llama 3's: tokens are bytes, some of them words, some of them parts of characters."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # " a", "th", " th", a space with the first byte of "—", its first two bytes, its second byte with a space
    merges = [("Ġ", "a"), ("t", "h"), ("Ġ", "th"), ("Ġ", "â"), ("â", "Ģ"), ("Ģ", "Ġ")]
    pieces = [*_SPECIAL, *alphabet, *dict.fromkeys(one + other for one, other in merges)]
    tokenizer = Tokenizer(BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _finished(tokenizer)


def sentencepiece() -> PreTrainedTokenizerFast:
    """As Llama 2's: words begin with a mark for the space, a text loses its first one; rare characters are bytes."""
    characters = [*"▁abehlotxé", "好"]
    merges = [("▁", "h"), ("▁", "▁"), ("t", "h"), ("▁", "th")]
    pieces = [*_SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *characters]
    pieces += [one + other for one, other in merges]
    model = BPE(
        vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges, unk_token="<unk>", byte_fallback=True
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _finished(tokenizer)


def metaspace() -> PreTrainedTokenizerFast:
    """As T5's: the mark for the space is its own decoder, and there are no bytes."""
    merges = [("▁", "h"), ("▁", "t")]
    pieces = [*_SPECIAL, *"▁abehlotxé", *(one + other for one, other in merges)]
    model = BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges, unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return _finished(tokenizer)


def _finished(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    finished = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **_ENDS, clean_up_tokenization_spaces=False)
    # not special: answers have them as text
    finished.add_tokens([AddedToken(content, normalized=False) for content in ("<tool_call>", "<｜tool▁sep｜>")])
    return finished
