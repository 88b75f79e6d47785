"""How many pages of KV cache an engine gets: what it can use, under what this machine can spare."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from mlflow_llm_plugins.errors import HardwareError
from mlflow_llm_plugins.generation.settings import EngineSettings
from mlflow_llm_plugins.hardware import available_memory_bytes

_USABLE = 0.85  # the scheduler keeps 15% of the pages free (transformers' fifo safety margin)
_ROW_TOKENS = 2048  # tokens counted for each row of a batch; longer requests share, the rest is evicted and redone
_CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
_UNLIMITED_CONTEXT = 8192  # for a model whose config names no limit


@dataclass(frozen=True, slots=True)
class CachePlan:
    """The size of a paged KV cache."""

    num_blocks: int
    page_size: int
    bytes_per_block: int

    @property
    def tokens(self) -> int:
        """Tokens that the cache holds."""
        return self.num_blocks * self.page_size

    def __str__(self) -> str:
        """For the log."""
        size = self.num_blocks * self.bytes_per_block / 2**20
        return f"{self.tokens} tokens in {self.num_blocks} pages of {self.page_size} ({size:.0f} MiB)"


def context_length(model: Any, settings: EngineSettings) -> int:
    """Tokens of prompt and answer together: the setting, else the model's limit."""
    config = model.config.get_text_config()
    limits = [getattr(config, name, None) for name in _CONTEXT_NAMES]
    limit = next((value for value in limits if isinstance(value, int) and value > 0), _UNLIMITED_CONTEXT)
    return min(limit, _longrope_limit(config) or limit, settings.max_context_length or limit)


def _longrope_limit(config: Any) -> int | None:
    """The length up to which a LongRoPE model (Phi-3-128k) uses one set of factors.

    transformers picks the factors by the longest row of a forward pass, so beyond this length an answer would
    depend on its company, and silently.
    """
    parameters = getattr(config, "rope_parameters", None) or {}
    if parameters.get("rope_type") != "longrope":
        return None
    original = parameters.get("original_max_position_embeddings") or getattr(
        config, "original_max_position_embeddings", None
    )
    return int(original) if original else None


def plan_cache(settings: EngineSettings, context: int, bytes_per_token: int, device: torch.device) -> CachePlan:
    """Size the cache for one request of full context, or all rows at a usual length, whichever is more.

    Raises:
        HardwareError: The memory allowed does not hold even one short request.
    """
    bytes_per_block = bytes_per_token * settings.page_size
    free = _free_memory(device)
    if settings.num_blocks is not None:
        _refuse_more_than(free, settings, bytes_per_block + _mask_bytes(settings))
        return CachePlan(settings.num_blocks, settings.page_size, bytes_per_block)
    rows = settings.max_requests_per_batch
    tokens = max(context, rows * min(context, _ROW_TOKENS))
    wanted = math.ceil((tokens / settings.page_size + rows) / _USABLE)
    allowed = int(free * settings.kv_cache_memory)
    affordable = allowed // (bytes_per_block + _mask_bytes(settings))
    if affordable < 4:
        raise HardwareError(
            f"A share of {settings.kv_cache_memory:g} of the free memory is {allowed / 2**20:.0f} MiB, not enough "
            f"for a KV cache of {bytes_per_token} bytes a token. Free memory, raise kv_cache_memory, or load the "
            "model quantized."
        )
    return CachePlan(min(wanted, affordable), settings.page_size, bytes_per_block)


def _refuse_more_than(free: int, settings: EngineSettings, bytes_per_block: int) -> None:
    assert settings.num_blocks is not None
    needed = settings.num_blocks * bytes_per_block
    if needed > free:
        raise HardwareError(
            f"num_blocks={settings.num_blocks} needs {needed / 2**20:.0f} MiB, and {free / 2**20:.0f} MiB are free. "
            f"Ask for at most {free // bytes_per_block}, or leave num_blocks out."
        )


def _mask_bytes(settings: EngineSettings) -> int:
    """The attention mask of a step grows with the cache: [max_batch_tokens, cache tokens] floats."""
    return 4 * settings.max_batch_tokens * settings.page_size


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return available_memory_bytes()
