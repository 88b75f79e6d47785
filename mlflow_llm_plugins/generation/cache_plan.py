"""How many pages of KV cache an engine gets: what it can use, under what this machine can spare."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mlflow_llm_plugins.errors import HardwareError
from mlflow_llm_plugins.generation.settings import EngineSettings

_ROW_TOKENS = 2048  # tokens counted for each row of a batch; longer requests share, the rest is evicted and redone
_FEWEST_BLOCKS = 4


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

    @property
    def bytes(self) -> int:
        """What its keys and values take."""
        return self.num_blocks * self.bytes_per_block

    def __str__(self) -> str:
        """For the log."""
        return f"{self.tokens} tokens in {self.num_blocks} pages of {self.page_size} ({self.bytes / 2**20:.0f} MiB)"


def plan_cache(
    settings: EngineSettings,
    context: int,
    bytes_per_token: int,
    free: int,
    *,
    usable: float = 1.0,
    extra_bytes_per_token: int = 0,
) -> CachePlan:
    """Size the cache for one request of full context, or all rows at a usual length, whichever is more.

    Args:
        settings: A size that is given, or a share of the memory.
        context: Tokens of the longest request.
        bytes_per_token: Keys and values of all layers.
        free: Bytes that are free for the cache and all else.
        usable: The share of the pages that the scheduler uses.
        extra_bytes_per_token: What else grows with the cache, beside it.

    Raises:
        HardwareError: The memory allowed does not hold even one short request.
    """
    bytes_per_block = bytes_per_token * settings.page_size
    taken_per_block = bytes_per_block + extra_bytes_per_token * settings.page_size
    if settings.num_blocks is not None:
        _refuse_more_than(free, settings.num_blocks, taken_per_block)
        return CachePlan(settings.num_blocks, settings.page_size, bytes_per_block)
    rows = settings.max_requests_per_batch
    tokens = max(context, rows * min(context, _ROW_TOKENS))
    wanted = math.ceil((tokens / settings.page_size + rows) / usable)
    allowed = int(free * settings.kv_cache_memory)
    affordable = allowed // taken_per_block
    if affordable < _FEWEST_BLOCKS:
        raise HardwareError(
            f"A share of {settings.kv_cache_memory:g} of the free memory is {allowed / 2**20:.0f} MiB, not enough "
            f"for a KV cache of {bytes_per_token} bytes a token. Free memory, raise kv_cache_memory, or load the "
            "model quantized."
        )
    return CachePlan(min(wanted, affordable), settings.page_size, bytes_per_block)


def _refuse_more_than(free: int, num_blocks: int, bytes_per_block: int) -> None:
    needed = num_blocks * bytes_per_block
    if needed > free:
        raise HardwareError(
            f"num_blocks={num_blocks} needs {needed / 2**20:.0f} MiB, and {free / 2**20:.0f} MiB are free. "
            f"Ask for at most {free // bytes_per_block}, or leave num_blocks out."
        )
