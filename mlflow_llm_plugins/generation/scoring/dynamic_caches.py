"""The library's growing cache, branched and cut without copying its tensors."""

from __future__ import annotations

import copy

from transformers.cache_utils import DynamicCache

from mlflow_llm_plugins.generation.scoring.prefix_caches import PrefixCaches


def keep_prefixes(max_tokens: int) -> PrefixCaches[DynamicCache]:
    """A place for the beginnings of recent calls, which holds nothing yet."""
    return PrefixCaches(max_tokens, first_tokens, copy_of)


def branch(cache: DynamicCache) -> DynamicCache:
    """A cache that grows on its own from the same tensors: plain layers replace them and never write into them."""
    own = copy.copy(cache)
    own.layers = [copy.copy(layer) for layer in cache.layers]
    return own


def first_tokens(cache: DynamicCache, tokens: int) -> DynamicCache:
    """A branch that has only the first `tokens` tokens."""
    first = branch(cache)
    first.crop(tokens - cache.get_seq_length())
    return first


def copy_of(cache: DynamicCache) -> DynamicCache:
    """The same in memory of its own; a view would hold the whole cache that it was cut from."""
    own = branch(cache)
    for layer in own.layers:
        layer.keys, layer.values = layer.keys.clone(), layer.values.clone()
    return own
