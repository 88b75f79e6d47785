"""Llamas with random weights, built on the spot, and a tokenizer that fits them. Needs no network."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

EOS = "<|eos|>"
MAX_LENGTH = 8192
LOGIT_DEVIATION = 4.0  # as peaked as trained models are; untouched, random weights give an almost even distribution
_LETTERS = "etaoinsrhldcumfpgwybvkxjqz"
_JSON_TOKENS = ('{"', '":', '":"', '", "', '","', '"}', '"},', '"}]', "[{", "},{", "\n  ")


@dataclass(frozen=True)
class Shape:
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool = True
    cuda_only: bool = False  # bfloat16 there, float32 on a CPU
    quantization: Literal["nf4", "int8"] | None = None  # by bitsandbytes


SHAPES = {
    "tiny": Shape(64, 192, 2, 4, 2, 1024),
    "40m": Shape(512, 1408, 12, 8, 4, 8192),
    "40m-150k": Shape(512, 1408, 12, 8, 4, 151_936),
    "300m": Shape(1024, 2816, 21, 16, 8, 32_000),
    "1b": Shape(2048, 8192, 16, 32, 8, 128_256, cuda_only=True),  # Llama 3.2 1B
    "1b-nf4": Shape(2048, 8192, 16, 32, 8, 128_256, cuda_only=True, quantization="nf4"),
    "1b-int8": Shape(2048, 8192, 16, 32, 8, 128_256, cuda_only=True, quantization="int8"),
    "8b": Shape(4096, 14_336, 32, 32, 8, 128_256, tied=False, cuda_only=True),  # Llama 3.1 8B
    "8b-nf4": Shape(4096, 14_336, 32, 32, 8, 128_256, tied=False, cuda_only=True, quantization="nf4"),
    "8b-int8": Shape(4096, 14_336, 32, 32, 8, 128_256, tied=False, cuda_only=True, quantization="int8"),
}


def random_model(shape: Shape, device: str) -> Any:
    """The model in evaluation mode on its device, the same weights at every call on the same kind of device."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=shape.tied,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    config.dtype = torch.bfloat16 if device == "cuda" else torch.float32
    torch.set_default_dtype(config.dtype)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.no_grad():
        model.model.norm.weight.fill_(LOGIT_DEVIATION / (config.initializer_range * math.sqrt(shape.hidden)))
    return _quantized(model, shape.quantization) if shape.quantization else model


def _quantized(model: Any, method: str) -> Any:
    """Replace the linear layers but the head, as transformers does with a BitsAndBytesConfig, in place."""
    import torch

    pack = {"nf4": _nf4, "int8": _int8}[method]
    layers = [(name, module) for name, module in model.model.named_modules() if isinstance(module, torch.nn.Linear)]
    for name, linear in layers:
        parent, _, attribute = name.rpartition(".")
        setattr(model.model.get_submodule(parent), attribute, pack(linear).to(linear.weight.device))
    return model


def _nf4(linear: Any) -> Any:
    """Packed when it moves to its device."""
    import bitsandbytes

    weight = linear.weight.data
    packed = bitsandbytes.nn.Linear4bit(
        linear.in_features, linear.out_features, bias=False, compute_dtype=weight.dtype, quant_type="nf4"
    )
    packed.weight = bitsandbytes.nn.Params4bit(weight.cpu(), requires_grad=False, quant_type="nf4", module=packed)
    return packed


def _int8(linear: Any) -> Any:
    """Rounded when it moves to its device; the threshold is transformers' default."""
    import bitsandbytes

    packed = bitsandbytes.nn.Linear8bitLt(
        linear.in_features, linear.out_features, bias=False, has_fp16_weights=False, threshold=6.0
    )
    packed.weight = bitsandbytes.nn.Int8Params(linear.weight.data.cpu(), requires_grad=False, has_fp16_weights=False)
    return packed


def byte_level_tokenizer(vocabulary: int) -> Any:
    """A tokenizer of exactly so many tokens: an end token, the bytes, pieces of JSON and made-up words.

    It has no merges, so it reads text byte by byte; what a model generates has tokens of many bytes.
    """
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    ids: dict[str, int] = {}
    for token in _tokens():
        if len(ids) == vocabulary:
            break
        ids.setdefault(token, len(ids))
    text = Tokenizer(BPE(vocab=ids, merges=[]))
    text.pre_tokenizer, text.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=text, eos_token=EOS, pad_token=EOS, model_max_length=MAX_LENGTH)


def _tokens() -> Iterator[str]:
    """Endless, in byte-level spelling; some come twice."""
    from tokenizers import pre_tokenizers

    yield EOS
    yield from sorted(pre_tokenizers.ByteLevel.alphabet())
    for token in _JSON_TOKENS:
        yield token.replace(" ", "Ġ").replace("\n", "Ċ")
    draw = random.Random(0)
    while True:
        word = "".join(draw.choices(_LETTERS, weights=range(len(_LETTERS), 0, -1), k=draw.randint(2, 9)))
        yield draw.choice(("", "Ġ")) + draw.choice((word, word, word.capitalize()))


def save_checkpoint(shape: Shape, device: str, folder: Path) -> Path:
    """Write model and tokenizer as transformers does; a quantized shape in 16 bits, for its reader to quantize."""
    random_model(replace(shape, quantization=None), device).save_pretrained(folder)
    byte_level_tokenizer(shape.vocabulary).save_pretrained(folder)
    return folder
