"""Tiny random models of many architectures, and a tokenizer for them, made in memory.

The weights are drawn here rather than by the library's initialisers: large enough that logits differ well between
tokens and greedy answers wander, and the same whatever version of transformers is installed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from tiny_llm import CHAT_TEMPLATE
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedModel, PreTrainedTokenizerFast

PAD, EOS, BOS = "<|pad|>", "<|eos|>", "<|bos|>"
SPECIAL_TOKENS = [PAD, EOS, BOS, "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
PAD_ID, EOS_ID, BOS_ID = 0, 1, 2
FIRST_BYTE_ID = len(SPECIAL_TOKENS)
FIRST_UNUSED_ID = FIRST_BYTE_ID + 256
VOCAB_SIZE = 320  # wider than the tokens that text can have, as in most real checkpoints
HIDDEN_SIZE = 64  # a bitsandbytes 4-bit block
MAX_LENGTH = 256
SLIDING_WINDOW = 16

_IDS = {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID, "pad_token_id": PAD_ID, "vocab_size": VOCAB_SIZE}
_ATTENTION = {
    "hidden_size": HIDDEN_SIZE,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": MAX_LENGTH,
}
_LLAMA_LIKE = {**_ATTENTION, "intermediate_size": 128, "num_key_value_heads": 2, "tie_word_embeddings": False}
_GPT2_LIKE = {"n_embd": HIDDEN_SIZE, "n_layer": 2, "n_head": 4, "n_positions": MAX_LENGTH}
_SLIDING = {
    **_LLAMA_LIKE,
    "head_dim": 16,
    "sliding_window": SLIDING_WINDOW,
    "layer_types": ["sliding_attention", "full_attention"],
}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}


@dataclass(frozen=True)
class _Kind:
    model_class: str
    config_class: str
    config: dict[str, Any] = field(default_factory=dict)


KINDS = {
    "llama": _Kind("LlamaForCausalLM", "LlamaConfig", _LLAMA_LIKE),
    "qwen2": _Kind("Qwen2ForCausalLM", "Qwen2Config", _LLAMA_LIKE),
    "qwen3": _Kind("Qwen3ForCausalLM", "Qwen3Config", {**_LLAMA_LIKE, "head_dim": 16}),
    "gpt2": _Kind("GPT2LMHeadModel", "GPT2Config", {**_GPT2_LIKE, "tie_word_embeddings": False}),
    "opt": _Kind(
        "OPTForCausalLM",
        "OPTConfig",
        {**_ATTENTION, "ffn_dim": 128, "word_embed_proj_dim": HIDDEN_SIZE, "tie_word_embeddings": False},
    ),
    "mistral_sliding": _Kind("MistralForCausalLM", "MistralConfig", {**_LLAMA_LIKE, "sliding_window": SLIDING_WINDOW}),
    "gemma2": _Kind("Gemma2ForCausalLM", "Gemma2Config", {**_SLIDING, "query_pre_attn_scalar": 16}),
    "gemma3": _Kind("Gemma3ForCausalLM", "Gemma3TextConfig", {**_SLIDING, "query_pre_attn_scalar": 16}),
    "mixtral": _Kind("MixtralForCausalLM", "MixtralConfig", {**_LLAMA_LIKE, **_EXPERTS, "sliding_window": None}),
    "phi3": _Kind("Phi3ForCausalLM", "Phi3Config", {**_LLAMA_LIKE, "original_max_position_embeddings": MAX_LENGTH}),
    "phi3_longrope": _Kind(  # two sets of rotary factors, switched at 64 tokens
        "Phi3ForCausalLM",
        "Phi3Config",
        {
            **_LLAMA_LIKE,
            "original_max_position_embeddings": 64,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10_000.0,
                "original_max_position_embeddings": 64,
                "short_factor": [1.0] * 8,
                "long_factor": [4.0] * 8,
            },
        },
    ),
    "gpt_neo": _Kind(
        "GPTNeoForCausalLM",
        "GPTNeoConfig",
        {
            "hidden_size": HIDDEN_SIZE,
            "num_layers": 2,
            "attention_types": [[["global", "local"], 1]],
            "num_heads": 4,
            "window_size": 16,
            "max_position_embeddings": MAX_LENGTH,
            "tie_word_embeddings": False,
        },
    ),
    "gpt_oss": _Kind("GptOssForCausalLM", "GptOssConfig", {**_SLIDING, **_EXPERTS}),
    "bloom": _Kind(
        "BloomForCausalLM",
        "BloomConfig",
        {"hidden_size": HIDDEN_SIZE, "n_layer": 2, "n_head": 4, "tie_word_embeddings": False},
    ),
    "falcon": _Kind("FalconForCausalLM", "FalconConfig", {**_ATTENTION, "tie_word_embeddings": False}),
    "mamba": _Kind(
        "MambaForCausalLM",
        "MambaConfig",
        {"hidden_size": HIDDEN_SIZE, "num_hidden_layers": 2, "state_size": 8, "tie_word_embeddings": False},
    ),
    "llama4": _Kind(
        "Llama4ForCausalLM",
        "Llama4TextConfig",
        {
            **_LLAMA_LIKE,
            "intermediate_size_mlp": 128,
            "head_dim": 16,
            "num_local_experts": 4,
            "attention_chunk_size": 64,
        },
    ),
    "gptj": _Kind("GPTJForCausalLM", "GPTJConfig", {**_GPT2_LIKE, "rotary_dim": 8}),
    "t5": _Kind(  # encoder-decoder: refused by everything that wants a causal model
        "T5ForConditionalGeneration",
        "T5Config",
        {
            "d_model": HIDDEN_SIZE,
            "d_kv": 16,
            "d_ff": 128,
            "num_layers": 2,
            "num_heads": 4,
            "tie_word_embeddings": False,
            "decoder_start_token_id": PAD_ID,
        },
    ),
    "bert": _Kind("BertForMaskedLM", "BertConfig", {**_ATTENTION, "intermediate_size": 128}),  # encoder only
}


def random_model(kind: str, seed: int = 0, **config_overrides: Any) -> PreTrainedModel:
    """A tiny float32 model in evaluation mode, with random weights that depend on `seed` only.

    Greedy decoding never picks a special or unused id, so an answer has the length that was asked for.

    Args:
        kind: A key of `KINDS`.
        seed: Of the weights.
        **config_overrides: Keys of the kind's transformers config; `vocab_size` may not go below `FIRST_UNUSED_ID`.
    """
    row = KINDS[kind]
    config = getattr(transformers, row.config_class)(**{**_IDS, **row.config, **config_overrides})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(transformers, row.model_class)(config).eval()
        _randomize(model)
    _silence_special_tokens(model)
    return model


def byte_tokenizer(model_vocab: int = VOCAB_SIZE) -> PreTrainedTokenizerFast:
    """A tokenizer with one token a byte, no automatic BOS, and the chat template of `tiny_llm`.

    Args:
        model_vocab: Ids above the bytes are filled up to this with special tokens that no text has.
    """
    unused = [f"<|unused_{i}|>" for i in range(model_vocab - FIRST_UNUSED_ID)]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*SPECIAL_TOKENS, *alphabet, *unused])}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=[*SPECIAL_TOKENS[3:], *unused],
        chat_template=CHAT_TEMPLATE,
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )


def save_checkpoint(path: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast | None = None) -> Path:
    """Write a checkpoint directory (safetensors) as transformers does, and return it."""
    model.save_pretrained(path)
    if tokenizer is not None:
        tokenizer.save_pretrained(path)
    return path


@torch.no_grad()
def _randomize(model: PreTrainedModel) -> None:
    embeddings = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    for name, parameter in model.named_parameters():
        if "A_log" in name:  # the decay rates of a state-space layer are no matrix
            continue
        noise = torch.randn(parameter.shape)
        if parameter.ndim == 1:  # gains of norms and biases: near where they were
            parameter.add_(0.1 * noise)
        elif id(parameter) in embeddings:
            parameter.copy_(0.4 * noise)
        else:
            parameter.copy_(noise / math.sqrt(min(parameter.shape[-2:])))


@torch.no_grad()
def _silence_special_tokens(model: PreTrainedModel) -> None:
    for parameter in model.get_output_embeddings().parameters():  # the weight, and a bias where there is one
        parameter[:FIRST_BYTE_ID] = 0
        parameter[FIRST_UNUSED_ID:] = 0
