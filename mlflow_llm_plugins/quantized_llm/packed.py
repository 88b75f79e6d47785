"""4-bit weights that bitsandbytes has repacked for the CPU, brought back into the form that can be saved.

On CPUs with AVX-512 BF16, the first forward pass of a 4-bit layer rearranges its weight in place and rounds its scales
to bfloat16 (bitsandbytes 0.49 to 0.50). Its own way back, taken by `state_dict()`, changes the layer once more and
leaves the scales transposed: what is saved, and the model in memory too, answer nonsense from then on.
"""

from __future__ import annotations

import copy
from typing import Any


def savable(model: Any) -> Any:
    """A model that `save_pretrained` writes as it now answers; the given one is not changed.

    Returns:
        A copy that shares all weights but the repacked ones. Where these were double-quantized their scales are not
        any more, which keeps the answers the same. A model without repacked weights is copied without its layers.
    """
    packed = [name for name, module in model.named_modules() if _is_packed(module)]
    if not packed:
        found = copy.copy(model)
    else:
        shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        found = copy.deepcopy(model, shared)
    # save_pretrained notes dtype and class in the configuration.
    found.config, found.generation_config = copy.deepcopy((model.config, model.generation_config))
    for name in packed:
        found.get_submodule(name).weight = _unpacked(found.get_submodule(name).weight)
        found.config.quantization_config.bnb_4bit_use_double_quant = False
    return found


def _is_packed(module: Any) -> bool:
    state = getattr(getattr(module, "weight", None), "quant_state", None)
    return bool(getattr(state, "packing_format_for_cpu", False))


def _unpacked(weight: Any) -> Any:
    from bitsandbytes.functional import _convert_weight_packed_for_cpu_inverse

    state = copy.copy(weight.quant_state)
    scales = state.absmax.T.float().reshape(-1)  # [blocks of a row, rows] -> [rows * blocks of a row]
    state.original_nested = False
    plain = copy.copy(weight)
    plain.data, plain.quant_state = _convert_weight_packed_for_cpu_inverse(weight.data, state)
    plain.quant_state.absmax = scales
    return plain
