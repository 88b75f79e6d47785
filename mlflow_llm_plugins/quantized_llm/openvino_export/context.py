"""What a configuration says of the reach of attention: the sliding window, and the longest exportable context."""

from __future__ import annotations

from typing import Any


def sliding_window(config: Any) -> int | None:
    """Tokens that a layer with a sliding window sees; None where no layer has one.

    Args:
        config: A transformers configuration.
    """
    config = config.get_text_config()
    types = getattr(config, "layer_types", None)
    if types is not None and "sliding_attention" not in types:
        return None
    return getattr(config, "sliding_window", None)


def longest_context(config: Any) -> int | None:
    """Tokens that the exported model can take; None where the configuration does not limit them.

    Rotary factors of the type "longrope" are others for long contexts, by the length of the longest row of a batch. A
    graph has one set, that of short contexts.

    Args:
        config: A transformers configuration.
    """
    config = config.get_text_config()
    longest = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") != "longrope":
        return longest
    return rope.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", longest)
