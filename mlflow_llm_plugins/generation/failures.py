"""What to say of an exception that came out of torch."""

from __future__ import annotations

import torch

_OUT_OF_MEMORY = (
    "the memory of the device is full; lower max_requests_per_batch, max_batch_tokens or kv_cache_memory, or load the "
    "model quantized"
)


def described(error: BaseException) -> str:
    """The exception with its class; of a device without memory what helps, instead of an allocator's statistics."""
    return _OUT_OF_MEMORY if isinstance(error, torch.OutOfMemoryError) else f"{type(error).__name__}: {error}"


def explained(message: str) -> str:
    """The same of a message that the library has kept of the exception."""
    return _OUT_OF_MEMORY if "out of memory" in message else message
