"""What the engine `openvino` needs of the memory. Imports nothing of OpenVINO."""

from __future__ import annotations

import logging

from mlflow_llm_plugins.errors import HardwareError
from mlflow_llm_plugins.generation.cache_plan import CachePlan, plan_cache
from mlflow_llm_plugins.generation.settings import EngineSettings

_logger = logging.getLogger(__name__)

_LOADED_SHARE = 1.2  # memory of a loaded model over the size of its file
_SMALL_CACHE_SHARE = 0.05  # over the size of the file: larger models keep larger keys and values
_PROCESS_BYTES = 2**28  # of Python, the library and its buffers


def memory_to_open(weight_bytes: int) -> int:
    """Bytes that must be free for an engine to open: one copy of the weights and a small KV cache.

    Args:
        weight_bytes: Size of the weights as they are stored, in bytes.
    """
    return int((_LOADED_SHARE + _SMALL_CACHE_SHARE) * weight_bytes) + _PROCESS_BYTES


def plan_beside_weights(
    settings: EngineSettings, context: int, bytes_per_token: int, *, weight_bytes: int, available: int
) -> CachePlan:
    """Size the KV cache beside two copies of the weights: the child's, and the scorer's once something is scored.

    Where that leaves no cache, it is sized beside one copy, with a warning.

    Args:
        settings: A size that is given, or a share of the memory.
        context: Tokens of the longest request.
        bytes_per_token: Keys and values of all layers.
        weight_bytes: Size of the file of the weights.
        available: Bytes that are free before anything is loaded.

    Raises:
        HardwareError: Not even one copy leaves room for a cache.
    """
    loaded = int(_LOADED_SHARE * weight_bytes)
    try:
        return plan_cache(settings, context, bytes_per_token, max(0, available - 2 * loaded))
    except HardwareError:
        plan = plan_cache(settings, context, bytes_per_token, max(0, available - loaded))
    _logger.warning(
        "Of the %.1f GB of memory that are free, the weights take %.1f GB when they are loaded. score, choose and "
        "logits load them once more, for which there may be no room: free memory, or load the model quantized, before "
        "they are used.",
        available / 1e9,
        loaded / 1e9,
    )
    return plan
