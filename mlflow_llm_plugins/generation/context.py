"""How many tokens a model reads, by its config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlflow_llm_plugins.generation.settings import EngineSettings

_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
_UNLIMITED = 8192  # for a model whose config names no limit


def context_length(config: Mapping[str, Any], settings: EngineSettings) -> int:
    """Tokens of prompt and answer together: the setting, else the model's limit.

    Args:
        config: Of the text model, as in config.json.
        settings: May make it shorter.
    """
    limits = (config.get(name) for name in _NAMES)
    limit = next((value for value in limits if isinstance(value, int) and value > 0), _UNLIMITED)
    return min(limit, _longrope_limit(config) or limit, settings.max_context_length or limit)


def _longrope_limit(config: Mapping[str, Any]) -> int | None:
    """The length up to which a LongRoPE model (Phi-3-128k) uses one set of factors.

    transformers picks the factors by the longest row of a forward pass, so beyond this length an answer would
    depend on its company, and silently.
    """
    parameters = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if "longrope" not in (parameters.get("rope_type"), parameters.get("type")):
        return None
    original = parameters.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
    return int(original) if original else None
