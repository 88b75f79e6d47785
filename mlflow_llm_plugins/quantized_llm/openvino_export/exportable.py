"""What can be exported, told from a configuration alone."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from mlflow_llm_plugins.errors import CheckpointError, UnsupportedFeatureError

_LAYER_TYPES = frozenset({"full_attention", "sliding_attention"})
# Without transformers' attention interface in 5.23, but with an attention of the same form.
_OWN_ATTENTION = frozenset({"falcon", "stablelm"})
# What else was tried, and failed: OpenVINO's paged form does not know their attention or experts.
_NOT_PAGED = {
    "diffllama": "its attention is a difference of two, which OpenVINO GenAI cannot page",
    "doge": "its attention has a mask that depends on the tokens, which OpenVINO GenAI leaves out",
    "jetmoe": "its attention is a mixture of experts, which OpenVINO cannot run",
}


def check_exportable(config: Any) -> None:
    """Refuse what OpenVINO cannot express, before any weight is read; what is left is proven by the export's probe.

    Args:
        config: A transformers configuration, or the content of config.json.

    Raises:
        UnsupportedFeatureError: Names the architecture and the reason.
        CheckpointError: transformers cannot make sense of the configuration.
    """
    config = _completed(config) if isinstance(config, Mapping) else config
    values = dict(config) if isinstance(config, Mapping) else config.to_dict()
    text_values = values.get("text_config") or values
    reason = _of_values(values, text_values) or _of_class(str(values.get("model_type")), text_values)
    if reason:
        name = (values.get("architectures") or [values.get("model_type")])[0]
        raise UnsupportedFeatureError(f"{name} cannot be exported to OpenVINO: {reason}.")


def _completed(values: Mapping[str, Any]) -> Any:
    """With the defaults that config.json leaves out, where transformers knows the architecture."""
    from transformers import CONFIG_MAPPING

    model_type = values.get("model_type")
    if model_type not in CONFIG_MAPPING:
        return values
    try:
        return CONFIG_MAPPING[model_type].from_dict(dict(values))
    except Exception as error:  # as many classes as there are ways to get a configuration wrong
        raise CheckpointError(f"transformers cannot read a configuration of {model_type!r}: {error}") from error


def _of_values(values: Mapping[str, Any], text_values: Mapping[str, Any]) -> str | None:
    """What the numbers and names of a configuration rule out."""
    other_layers = set(text_values.get("layer_types") or ()) - _LAYER_TYPES
    reasons = {
        "its weights are quantized: export the original ones": values.get("quantization_config"),
        "it is an encoder-decoder, and only causal language models can be": values.get("is_encoder_decoder"),
        "its attention has a softcap, for which OpenVINO's has no place": text_values.get("attn_logit_softcapping"),
        "its attention keeps latent states, which OpenVINO GenAI cannot page": text_values.get("kv_lora_rank"),
        "its attention has linear biases (alibi), for which OpenVINO's has no place": text_values.get("alibi"),
        "some of its layers share the keys and values of others": text_values.get("num_kv_shared_layers"),
        f"OpenVINO GenAI has no layers of {', '.join(sorted(other_layers))}": other_layers,
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


def _of_class(model_type: str, values: Mapping[str, Any]) -> str | None:
    """What the model's class rules out; a class that is not of transformers is left to the probe."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    if model_type in _NOT_PAGED:
        return _NOT_PAGED[model_type]
    if model_type not in CONFIG_MAPPING:
        return None
    config_class = CONFIG_MAPPING[model_type]
    if config_class not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return "it is no causal language model"
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING[config_class]
    if getattr(model_class, "_is_stateful", False):
        return "its layers keep a state other than keys and values, which OpenVINO GenAI cannot page"
    if "position_ids" not in inspect.signature(model_class.forward).parameters:
        return "its forward pass takes no position_ids, which OpenVINO GenAI gives"
    if not getattr(model_class, "_supports_attention_backend", False) and model_type not in _OWN_ATTENTION:
        return "it does not use transformers' attention interface"
    if _is_encoder(model_type, values):
        return "it is an encoder: its tokens see those that follow"
    return None


def _is_encoder(model_type: str, values: Mapping[str, Any]) -> bool:
    """Whether an architecture that can be both is one; gpt_neox has the flag, and does not look at it."""
    return values.get("is_decoder") is False and not model_type.startswith("gpt")
