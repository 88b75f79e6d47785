"""Attention of each request over its own keys, for continuous batching on a CPU.

transformers packs all rows of a step into one sequence and, with its `sdpa` function, runs every new token against the
keys of ALL requests under a block-diagonal mask: the cost of a step grows with rows times all keys. Here requests that
decode share one call, padded to the longest of those with a similar length, and each prefill has a call of its own, so
no mask over all keys is ever built.

The function has a name of its own among transformers' attention functions and only the engine's model object uses it:
other models of the process see no difference. What a step looks like is worked out once, in a hook before the forward
pass, which hands it down to every layer.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import AttentionInterface

NAME = "mlflow_llm_per_request"
_ARGUMENT = "per_request_step"  # what the hook adds to the arguments of the forward pass
_PADDING = 1.3  # a group of decoding rows may have so many times the keys of its rows, and
_SPARE_TOKENS = 64  # so many more in each row
_UNSUPPORTED = ("softcap", "s_aux", "position_bias", "head_mask")  # what changes the result and is not done here


def use_per_request_attention(model: Any) -> Callable[[], None]:
    """Let this model object attend request by request, in continuous batching only.

    Returns:
        A function that gives it back the attention that it had.
    """
    AttentionInterface.register(NAME, _attention)
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    hook = model.register_forward_pre_hook(_describe_step, with_kwargs=True)

    def undo() -> None:
        hook.remove()
        model.set_attn_implementation(before)

    return undo


def can_attend_per_request(model: Any) -> bool:
    """Whether it is worth a try: on a CPU, with attention that transformers would run as `sdpa`."""
    return bool(model.device.type == "cpu" and model.config._attn_implementation == "sdpa")


@dataclass(frozen=True, slots=True)
class _Group:
    """Decoding requests that share a call; they stand one after the other."""

    first: int  # of their tokens in the step
    rows: int
    keys: slice  # of what is read from the cache: rows * width tokens
    width: int  # keys of each, padding included
    mask: torch.Tensor | None  # [rows, 1, 1, width]


@dataclass(frozen=True, slots=True)
class _Prefill:
    """One request with several new tokens."""

    tokens: slice  # of the step
    keys: slice  # of what is read from the cache, or of the step where nothing is read
    mask: torch.Tensor | None  # [new tokens, keys]; None: causal, no token was there before


@dataclass(frozen=True, slots=True)
class _Layout:
    """What the layers of one kind (full or sliding attention) do in a step."""

    order: torch.Tensor | None  # [tokens] of the step, groups first; None where they stand so already
    back: torch.Tensor | None  # the inverse
    read_index: torch.Tensor  # [keys] places in the cache; empty where nothing is read
    write_index: torch.Tensor  # [tokens]
    groups: tuple[_Group, ...]
    prefills: tuple[_Prefill, ...]


@dataclass(frozen=True, slots=True)
class _Request:
    """One request of a step, for one kind of layer."""

    tokens: range  # of the step
    keys: range  # of the step's read index

    @property
    def decodes(self) -> bool:
        """Whether it has one new token behind others; a prompt of one token has nothing to be padded with."""
        return len(self.tokens) == 1 < len(self.keys)


def _describe_step(
    model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The hook: adds the layouts of a step of continuous batching; other forward passes are left alone."""
    cache = kwargs.get("cache")
    if cache is not None:
        starts = kwargs["cu_seq_lens_q"].tolist()
        kwargs[_ARGUMENT] = {
            allocator.index: _layout(allocator, starts, kwargs, cache.dtype)
            for allocator in cache.cache_allocators.values()
        }
    return args, kwargs


def _layout(allocator: Any, starts: list[int], kwargs: dict[str, Any], dtype: torch.dtype) -> _Layout:
    key_starts = kwargs["cu_seq_lens_k"][allocator.layer_type].tolist()
    read, write = kwargs["read_index"][allocator.index], kwargs["write_index"][allocator.index]
    requests = [
        _Request(range(*tokens), range(*keys))
        for tokens, keys in zip(itertools.pairwise(starts), itertools.pairwise(key_starts), strict=True)
    ]
    reads = read.numel() > 0
    grouped = _by_length([one for one in requests if one.decodes]) if reads else []
    alone = [one for one in requests if not one.decodes or not reads]
    order = _order([*itertools.chain(*grouped), *alone])
    groups, places = _groups(grouped, read, dtype)
    prefills = _prefills(alone, sum(len(place) for place in places), sum(map(len, grouped)), allocator, reads, dtype)
    places += [read[one.keys.start : one.keys.stop] for one in alone if reads]
    return _Layout(
        order=order,
        back=None if order is None else order.argsort(),
        read_index=torch.cat(places) if places else read,
        write_index=write if order is None else write[order],
        groups=tuple(groups),
        prefills=tuple(prefills),
    )


def _by_length(requests: Sequence[_Request]) -> list[list[_Request]]:
    """Groups whose padding is bounded; one group keeps the order of the step."""
    if not requests or _fit([len(one.keys) for one in requests]):
        return [list(requests)] if requests else []
    groups: list[list[_Request]] = []
    for one in sorted(requests, key=lambda one: len(one.keys)):
        if groups and _fit([len(other.keys) for other in groups[-1]] + [len(one.keys)]):
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups


def _fit(lengths: Sequence[int]) -> bool:
    return max(lengths) * len(lengths) <= _PADDING * sum(lengths) + _SPARE_TOKENS * len(lengths)


def _order(requests: Sequence[_Request]) -> torch.Tensor | None:
    order = [token for one in requests for token in one.tokens]
    return None if order == sorted(order) else torch.tensor(order)


def _groups(
    grouped: Sequence[Sequence[_Request]], read: torch.Tensor, dtype: torch.dtype
) -> tuple[list[_Group], list[torch.Tensor]]:
    """The groups, and what each reads: every row padded in front, with a place of its own cache that is masked."""
    groups, places = [], []
    token = key = 0
    for members in grouped:
        lengths = torch.tensor([len(one.keys) for one in members])[:, None]
        width = int(lengths.max())
        column = torch.arange(width)[None] - (width - lengths)  # negative in the padding
        start = torch.tensor([one.keys.start for one in members])[:, None]
        places.append(read[(start + column.clamp(min=0)).flatten()])
        mask = None
        if (column[:, 0] < 0).any():
            mask = torch.zeros(column.shape, dtype=dtype).masked_fill_(column < 0, -torch.inf)[:, None, None]
        groups.append(_Group(token, len(members), slice(key, key + len(members) * width), width, mask))
        token, key = token + len(members), key + len(members) * width
    return groups, places


def _prefills(
    alone: Sequence[_Request], key: int, token: int, allocator: Any, reads: bool, dtype: torch.dtype
) -> list[_Prefill]:
    prefills = []
    key = key if reads else token
    for one in alone:
        new, keys = len(one.tokens), len(one.keys)
        window = getattr(allocator, "sliding_window", None)
        mask = None if new == keys and (window is None or keys <= window) else _causal_mask(new, keys, window, dtype)
        prefills.append(_Prefill(slice(token, token + new), slice(key, key + keys), mask))
        token, key = token + new, key + keys
    return prefills


def _causal_mask(new: int, keys: int, window: int | None, dtype: torch.dtype) -> torch.Tensor:
    """[new, keys] 0 where a token looks, else -inf; the new tokens are the last keys."""
    allowed = torch.ones((new, keys), dtype=torch.bool).tril_(keys - new)
    if window is not None:
        allowed = allowed.triu_(keys - new - window + 1)
    return torch.zeros((new, keys), dtype=dtype).masked_fill_(~allowed, -torch.inf)


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    cache: Any = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """One layer's attention, under transformers' interface for it.

    Args:
        module: The layer.
        query: [1, heads, tokens, head_dim].
        key: [1, kv_heads, tokens, head_dim].
        value: As `key`.
        attention_mask: None: transformers builds no mask for functions that it does not know.
        scaling: Of the scores.
        cache: transformers' paged cache.
        **kwargs: The step's layouts, and what this function must refuse.

    Returns:
        [1, tokens, heads, head_dim], and None for the weights.
    """
    if refused := [name for name in _UNSUPPORTED if kwargs.get(name) is not None]:
        raise NotImplementedError(f"attention with {', '.join(refused)}")
    allocator = cache.layer_to_allocator[module.layer_idx]
    layout: _Layout = kwargs[_ARGUMENT][allocator.index]
    queries, keys, values = (_ordered(states[0].transpose(0, 1), layout.order) for states in (query, key, value))
    keys, values = allocator.update(keys, values, module.layer_idx, layout.read_index, layout.write_index)
    parts = [_decode(group, queries, keys, values, scaling) for group in layout.groups]
    parts += [_prefill(prefill, queries, keys, values, scaling) for prefill in layout.prefills]
    output = parts[0] if len(parts) == 1 else torch.cat(parts)
    return _ordered(output, layout.back)[None], None


def _ordered(states: torch.Tensor, order: torch.Tensor | None) -> torch.Tensor:
    return states if order is None else states[order]


def _decode(
    group: _Group, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """[rows, heads, head_dim]; the heads that share keys stand where several tokens of a query would."""
    heads, kv_heads = queries.shape[1], keys.shape[1]
    query = queries[group.first : group.first + group.rows].reshape(group.rows, kv_heads, heads // kv_heads, -1)
    key, value = (
        states[group.keys].view(group.rows, group.width, kv_heads, -1).transpose(1, 2) for states in (keys, values)
    )
    output = scaled_dot_product_attention(query, key, value, attn_mask=group.mask, scale=scaling)
    return output.reshape(group.rows, heads, -1)


def _prefill(
    prefill: _Prefill, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """[new tokens, heads, head_dim]; heads that share keys are a batch over the same keys, which copies nothing."""
    heads, kv_heads = queries.shape[1], keys.shape[1]
    shared = heads // kv_heads
    new = prefill.tokens.stop - prefill.tokens.start
    query = queries[prefill.tokens].view(new, kv_heads, shared, -1).permute(2, 1, 0, 3)
    key, value = (states[prefill.keys].transpose(0, 1)[None].expand(shared, -1, -1, -1) for states in (keys, values))
    causal = prefill.mask is None
    output = scaled_dot_product_attention(query, key, value, attn_mask=prefill.mask, is_causal=causal, scale=scaling)
    return output.permute(2, 1, 0, 3).reshape(new, heads, -1)
