"""Tiny random models of more architectures than `tests.models` has."""

from __future__ import annotations

import math
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from tests.models import (
    BOS_ID,
    EOS_ID,
    HIDDEN_SIZE,
    KINDS,
    MAX_LENGTH,
    PAD_ID,
    SLIDING_WINDOW,
    VOCAB_SIZE,
    random_model,
)

_IDS = {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID, "pad_token_id": PAD_ID, "vocab_size": VOCAB_SIZE}
_SIZES = {
    "hidden_size": HIDDEN_SIZE,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": MAX_LENGTH,
}
_WIDTH = {"head_dim": 16}
_LAYERS = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": SLIDING_WINDOW}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
_OWN: dict[str, tuple[str, dict[str, Any]]] = {
    "llama3_rope": ("Llama", {"rope_parameters": _LLAMA3_ROPE}),
    "llama_tied": ("Llama", {"tie_word_embeddings": True}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "qwen2_sliding": ("Qwen2", {**_LAYERS, "use_sliding_window": True}),
    "phi3_sliding": ("Phi3", {"sliding_window": SLIDING_WINDOW}),
    "gemma": ("Gemma", _WIDTH),
    "gemma2_without_softcap": (
        "Gemma2",
        {**_WIDTH, **_LAYERS, "attn_logit_softcapping": None, "query_pre_attn_scalar": 16},
    ),
    "olmo2": ("Olmo2", {}),
    "olmo3": ("Olmo3", _LAYERS),
    "granite": ("Granite", {"logits_scaling": 3.0, "residual_multiplier": 0.5}),
    "smollm3": ("SmolLM3", {}),
    "stablelm": ("StableLm", {}),
    "gpt_neox": ("GPTNeoX", {}),
    "gpt_bigcode": ("GPTBigCode", {"n_embd": HIDDEN_SIZE, "n_layer": 2, "n_head": 4, "n_positions": MAX_LENGTH}),
    "starcoder2": ("Starcoder2", {"sliding_window": None}),
    "phi": ("Phi", {}),
    "cohere": ("Cohere", {}),
    "cohere2": ("Cohere2", _LAYERS),
    "falcon_new": ("Falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "exaone4": ("Exaone4", _LAYERS),
    "glm4": ("Glm4", _WIDTH),
    "ministral3": ("Ministral3", _WIDTH),
    "ernie4_5": ("Ernie4_5", _WIDTH),
    "helium": ("Helium", _WIDTH),
    "qwen3_moe": ("Qwen3Moe", {**_WIDTH, **_EXPERTS}),
    "olmoe": ("Olmoe", _EXPERTS),
    "granitemoe": ("GraniteMoe", {"num_local_experts": 4, "num_experts_per_tok": 2}),
}
_SHARED = [
    *("llama", "qwen2", "qwen3", "gpt2", "opt", "mistral_sliding", "gemma3", "mixtral", "phi3", "phi3_longrope"),
    *("gpt_oss", "falcon"),
]
QUICK = ["llama_tied", "mistral_sliding", "gemma3", "mixtral"]
NAMES = sorted({*_SHARED, *_OWN})
REFUSED = {  # name in `tests.models.KINDS` -> a word of the reason
    "gemma2": "softcap",
    "bloom": "position_ids",
    "mamba": "state other than keys and values",
    "llama4": "chunked_attention",
    "gptj": "attention interface",
    "gpt_neo": "attention interface",
    "t5": "encoder-decoder",
    "bert": "encoder",
}


def build(name: str, **overrides: Any) -> PreTrainedModel:
    """A float32 model of one of `NAMES`, in evaluation mode, the same at every call.

    Args:
        name: Of this table, or a kind of `tests.models`.
        **overrides: Keys of its configuration.
    """
    if name in KINDS:
        return random_model(name, **overrides)
    prefix, values = _OWN[name]
    config = getattr(transformers, f"{prefix}Config")(**{**_IDS, **_SIZES, **values, **overrides})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, f"{prefix}ForCausalLM")(config).eval()
        _randomize(model)
    return model


@torch.no_grad()
def _randomize(model: PreTrainedModel) -> None:
    embeddings = id(model.get_input_embeddings().weight)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape)
        if parameter.ndim == 1:
            parameter.add_(0.1 * noise)
        elif id(parameter) == embeddings:
            parameter.copy_(0.4 * noise)
        else:
            parameter.copy_(noise / math.sqrt(min(parameter.shape[-2:])))
