"""Paged attention with soft-capped scores (Gemma 2), which transformers' own paged attention leaves out.

`paged|eager` takes no notice of `softcap` (transformers 5.20 to 5.23): such a model runs there without an error
and is wrong. The function registered here hands every call without a softcap to the one it replaces, so other
models of the process see no difference.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

_NAME = "paged|eager"
_lock = threading.Lock()


def support_softcap(model: Any) -> None:
    """Make continuous batching right for a model that caps its attention scores; does nothing for others."""
    if getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is None:
        return
    with _lock:
        stock = ALL_ATTENTION_FUNCTIONS[_NAME]
        if not hasattr(stock, "without_softcap"):
            AttentionInterface.register(_NAME, _delegating(stock))


def _delegating(stock: Any) -> Any:
    def attention(
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        softcap, cache = kwargs.pop("softcap", None), kwargs.get("cache")
        if softcap is None or cache is None:
            result: tuple[torch.Tensor, torch.Tensor | None] = stock(
                module, query, key, value, attention_mask, **kwargs
            )
            return result
        key, value = cache.update(key_states=key, value_states=value, layer_idx=module.layer_idx, kwargs=kwargs)
        return _softcapped(query, key, value, attention_mask, kwargs["scaling"], softcap), None

    attention.without_softcap = stock  # type: ignore[attr-defined]
    return attention


def _softcapped(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float,
    softcap: float,
) -> torch.Tensor:
    """softmax(softcap * tanh(query key / softcap) + mask) value.

    Args:
        query: [1, heads, new tokens, head_dim].
        key: [1, kv_heads, cached tokens, head_dim].
        value: As `key`.
        mask: [1, 1, new tokens, cached tokens], 0 or the smallest float.
        scaling: Of the scores.
        softcap: The bound of the scores.

    Returns:
        [1, new tokens, heads, head_dim].
    """
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = torch.tanh(query @ key.transpose(2, 3) * (scaling / softcap)) * softcap
    if mask is not None:
        scores = scores + mask
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2).contiguous()
