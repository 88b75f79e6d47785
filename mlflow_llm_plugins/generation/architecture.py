"""What a model's class and placement say about how it can be run, before anything is tried."""

from __future__ import annotations

from typing import Any

import torch

from mlflow_llm_plugins.errors import InvalidInputError


def refuse_other_tasks(model: Any) -> None:
    """Raise unless the model is a causal language model.

    Raises:
        InvalidInputError: An encoder, or an encoder-decoder.
    """
    name = type(model).__name__
    if model.config.is_encoder_decoder:
        raise InvalidInputError(f"{name} is an encoder-decoder; the engine runs causal language models only.")
    if not model.can_generate():
        raise InvalidInputError(f"{name} cannot generate; the engine runs causal language models only.")


def why_not_paged(model: Any) -> str | None:
    """Why continuous batching cannot serve this model, or None when it is worth a try.

    Models whose attention does not go through transformers' attention interface run there without an error and
    give wrong answers.
    """
    if not getattr(model, "_supports_attention_backend", False):
        return f"{type(model).__name__} does not use transformers' attention interface"
    devices = {str(device) for device in (getattr(model, "hf_device_map", None) or {}).values()}
    if len(devices) > 1 or "disk" in devices:
        return f"its weights are spread over {', '.join(sorted(devices))}"
    return None


def end_token_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end an answer: of the generation config, else the model's config, else the tokenizer."""
    sources = (getattr(model, "generation_config", None), model.config.get_text_config(), tokenizer)
    for source in sources:
        ids = getattr(source, "eos_token_id", None)
        if ids is not None:
            return frozenset([ids] if isinstance(ids, int) else ids)
    return frozenset()


def text_config(model: Any) -> dict[str, Any]:
    """The configuration of the text model, as in config.json."""
    config: dict[str, Any] = model.config.get_text_config().to_dict()
    return config


def input_device(model: Any) -> torch.device:
    """Where token ids must be: a model that is wholly on disk says "meta", and runs where accelerate brings it."""
    if model.device.type != "meta":
        return torch.device(model.device)
    return torch.device(getattr(getattr(model, "_hf_hook", None), "execution_device", None) or "cpu")


def vocabulary_size(model: Any) -> int:
    """Rows of the input embedding: every token id must be below it."""
    return int(model.get_input_embeddings().weight.shape[0])


def logits_width(model: Any) -> int:
    """Columns of the logits: often more than the tokenizer has entries."""
    head = model.get_output_embeddings()
    return int(getattr(head, "out_features", 0) or vocabulary_size(model))


def is_exact(model: Any) -> bool:
    """Whether weights and arithmetic are float32, so that two ways of computing agree to the last few bits."""
    return model.dtype == torch.float32 and getattr(model.config, "quantization_config", None) is None
