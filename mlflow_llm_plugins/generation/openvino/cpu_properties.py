"""The settings of OpenVINO's CPU device, in the words of the library."""

from __future__ import annotations

from typing import Any

from mlflow_llm_plugins.generation.cpu.threads import threads_to_use
from mlflow_llm_plugins.generation.openvino.ir_description import IRDescription
from mlflow_llm_plugins.generation.settings import EngineSettings

_GROUP = "DYNAMIC_QUANTIZATION_GROUP_SIZE"
# Values of an activation that share a scale where they are rounded to 8 bits, which the library does to multiply them
# with 8-bit weights. With its own 32, a step of 16 rows takes 1.2 times as long (openvino 2026.4, AVX-512 VNNI), and
# log-probabilities of 40M random weights are as far off (0.051 on average, 0.054 with 128; 0.033 unrounded).
_ACTIVATION_GROUP = 128
_WHOLE_ROW = -1


def cpu_properties(
    ir: IRDescription, settings: EngineSettings, kv_cache_precision: str | None = None
) -> dict[str, Any]:
    """What the model is compiled with.

    Args:
        ir: The model; groups of activations must fit those of its weights.
        settings: Its threads and the precision of its arithmetic.
        kv_cache_precision: Of keys and values; None: the library's choice.
    """
    properties = {
        "INFERENCE_NUM_THREADS": threads_to_use(settings.num_threads),
        "INFERENCE_PRECISION_HINT": settings.inference_precision,
        "KV_CACHE_PRECISION": kv_cache_precision,
        _GROUP: _activation_group(ir, settings),
    }
    return {name: value for name, value in properties.items() if value is not None}


def _activation_group(ir: IRDescription, settings: EngineSettings) -> int | None:
    """None: the library's choice, for float32 arithmetic, which wants no more rounding, and other weights."""
    is_int8 = ir.weight_format == "int8" and ir.group_size == _WHOLE_ROW
    is_free = _GROUP not in ir.runtime_options and settings.inference_precision != "f32"
    return _ACTIVATION_GROUP if is_int8 and is_free else None
