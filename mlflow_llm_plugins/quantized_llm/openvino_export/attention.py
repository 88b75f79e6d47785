"""Attention, masks and experts in forms that OpenVINO recognises, under names of their own among transformers'.

transformers' `sdpa` functions decide by the values of an input whether there is a mask at all, and its experts loop
over those that were hit: a trace would keep one of the ways. These have one way for all inputs.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mlflow_llm_plugins.errors import UnsupportedFeatureError

NAME = "mlflow_llm_openvino"
_MASKED = -65504.0  # the smallest finite number of fp16, in which a plugin may compute
_UNSUPPORTED = ("softcap", "position_bias", "head_mask")  # arguments for which the fused operation has no place
_registration = threading.Lock()  # transformers' tables belong to the process


@contextmanager
def registered() -> Iterator[str]:
    """Give these functions a name in transformers for as long as the block runs; one thread at a time.

    Yields:
        The name, for `attn_implementation` and `experts_implementation`.
    """
    tables = {
        type(ALL_ATTENTION_FUNCTIONS): _attention,
        type(ALL_MASK_ATTENTION_FUNCTIONS): _mask,
        type(ALL_EXPERTS_FUNCTIONS): _all_experts,
    }
    with _registration:
        try:
            for table, function in tables.items():
                table.register(NAME, function)
            yield NAME
        finally:
            for table in tables:
                table._global_mapping.pop(NAME, None)  # the library (5.23) has no public way back


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """softmax(scaling * query key + mask) value.

    Args:
        module: The layer, unused.
        query: [batch, heads, new tokens, head_dim].
        key: [batch, kv_heads, all tokens, head_dim].
        value: As `key`.
        attention_mask: [batch, 1, new tokens, all tokens], added to the scores.
        scaling: Of the scores; None: one over the root of head_dim.
        **options: Of the architecture.

    Returns:
        [batch, new tokens, heads, head_dim], and None in place of the weights.
    """
    for name in _UNSUPPORTED:
        if options.get(name) is not None:
            raise UnsupportedFeatureError(f"its attention has {name!r}, for which OpenVINO's has no place")
    if attention_mask is None:
        raise UnsupportedFeatureError("its attention has no mask")
    key, value = _repeated(key, query.shape[1]), _repeated(value, query.shape[1])
    sinks = options.get("s_aux")
    if sinks is not None:
        return _attention_with_sinks(query, key, value, attention_mask, scaling, sinks), None
    attended = scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, scale=scaling)
    return attended.transpose(1, 2), None


def _repeated(states: torch.Tensor, heads: int) -> torch.Tensor:
    """Each key or value head for all query heads that share it: [batch, heads, tokens, width]."""
    batch, kv_heads, tokens, width = states.shape
    groups = heads // kv_heads
    if groups == 1:
        return states
    shared = states[:, :, None].expand(batch, kv_heads, groups, tokens, width)
    return shared.reshape(batch, kv_heads * groups, tokens, width)


def _attention_with_sinks(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    scaling: float | None,
    sinks: torch.Tensor,
) -> torch.Tensor:
    """Each head has one more score, which takes weight and gives nothing; OpenVINO fuses exactly these steps."""
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    scores = torch.matmul(query, key.transpose(2, 3)) * scale + mask
    sink = sinks.reshape(1, -1, 1, 1).expand(query.shape[0], -1, query.shape[-2], -1)
    scores = torch.cat([scores, sink], dim=-1)
    scores = scores - scores.max(dim=-1, keepdim=True).values
    weights = torch.softmax(scores, dim=-1, dtype=scores.dtype)
    return torch.matmul(weights[..., :-1], value).transpose(1, 2)


def _mask(q_length: int, q_offset: int = 0, **arguments: Any) -> torch.Tensor:
    """[batch, 1, new tokens, all tokens]: 0 where a token may look, else the smallest number.

    With positions that come out of `arange`, OpenVINO's paged form finds the width of a sliding window in the graph.
    """
    positions = torch.arange(q_offset, q_offset + q_length)
    wanted = ("batch_size", "kv_length", "kv_offset", "mask_function", "attention_mask")
    allowed = sdpa_mask(
        q_length=positions.shape[0],
        q_offset=positions[0],
        allow_is_causal_skip=False,
        **{name: arguments[name] for name in wanted if name in arguments},
    )
    return torch.where(allowed, 0.0, _MASKED)


def _all_experts(
    experts: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """Every expert on every token, weighted by what the router gave it: 0 for most.

    Args:
        experts: A module of `use_experts_implementation`, with the weights of all experts stacked.
        hidden_states: [tokens, hidden].
        top_k_index: [tokens, experts per token].
        top_k_weights: As `top_k_index`.

    Returns:
        [tokens, hidden].
    """
    count = experts.down_proj.shape[0]
    # Repeat, view, bmm: a broadcast `@` converts, and then fails in the CPU plugin (2026.4).
    states = hidden_states.repeat(count, 1).view(count, -1, hidden_states.shape[-1])
    name = "gate_up_proj" if experts.has_gate else "up_proj"
    states = _project(experts, states, name)
    states = experts._apply_gate(states) if experts.has_gate else experts.act_fn(states)
    states = _project(experts, states, "down_proj")
    if getattr(experts, "has_post_expert_norm", False):
        states = experts.post_expert_norm(states)
    routing = torch.zeros(hidden_states.shape[0], count, dtype=states.dtype)
    routing = routing.scatter(1, top_k_index, top_k_weights.to(states.dtype))
    return (states * routing.transpose(0, 1).unsqueeze(-1)).sum(dim=0)


def _project(experts: Any, states: torch.Tensor, name: str) -> torch.Tensor:
    weight = getattr(experts, name)
    projected = torch.bmm(states, weight if experts.is_transposed else weight.transpose(1, 2))
    return projected + getattr(experts, f"{name}_bias").unsqueeze(1) if experts.has_bias else projected
