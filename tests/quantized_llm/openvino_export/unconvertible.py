"""A tokenizer for which OpenVINO has no operations."""

from __future__ import annotations

from tokenizers import pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.models import byte_tokenizer


def unconvertible_tokenizer() -> PreTrainedTokenizerFast:
    """That of bytes, but for what splits a text first."""
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.UnicodeScripts(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return tokenizer
