"""A second model object on the same weights, for plain forward passes beside running generation.

Continuous batching writes `is_causal=False` into the model's config for the duration of each step; a plain
forward on the same object meanwhile is silently wrong (transformers 5.20 to 5.23). A twin has its own config.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from mlflow_llm_plugins.errors import HardwareError
from mlflow_llm_plugins.generation.architecture import input_device


@dataclass(frozen=True, slots=True)
class CacheShape:
    """What one plain forward pass showed of the model's cache."""

    bytes_per_token: int  # keys and values of all layers; 0 for a model that keeps no keys
    is_plain_attention: bool  # every layer keeps all keys: rows can be branched and padded


def inspect_cache(model: Any) -> CacheShape:
    """Run one token through the model and look at the cache it leaves.

    It also initialises what layers build at their first call, which two models that share weights must not do
    at the same time.

    Raises:
        HardwareError: The model cannot run here at all, for example for want of a kernel for a layer's shape.
    """
    try:
        with torch.no_grad():
            output = model(input_ids=_one_token(model), use_cache=True)
    except (AssertionError, RuntimeError, NotImplementedError) as error:
        raise HardwareError(
            f"{type(model).__name__} cannot run on {input_device(model)}: {str(error) or type(error).__name__}"
        ) from error
    cache = getattr(output, "past_key_values", None)
    layers = list(getattr(cache, "layers", ()))
    tensors = [getattr(layer, name, None) for layer in layers for name in ("keys", "values")]
    return CacheShape(
        bytes_per_token=sum(t.nelement() * t.element_size() for t in tensors if isinstance(t, torch.Tensor)),
        is_plain_attention=isinstance(cache, DynamicCache)
        and all(type(layer) is DynamicLayer for layer in layers)
        and "local" not in getattr(model.config, "attention_layers", ()),  # GPT-Neo: a window behind a plain cache
    )


def make_twin(model: Any) -> Any:
    """A copy of the model that shares every weight and buffer.

    Call `inspect_cache` before and start continuous batching after.
    """
    shared: list[Any] = [*model.parameters(), *model.buffers()]
    # bitsandbytes int8 layers keep weight and scales in a state object beside the parameter
    shared += [module.state for module in model.modules() if hasattr(getattr(module, "state", None), "CB")]
    return copy.deepcopy(model, {id(item): item for item in shared})


def _one_token(model: Any) -> torch.Tensor:
    return torch.zeros((1, 1), dtype=torch.long, device=input_device(model))
