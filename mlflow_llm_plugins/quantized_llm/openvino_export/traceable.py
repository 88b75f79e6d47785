"""A copy of a model that may be changed: its own modules and configuration, on the same weights.

16-bit weights stay as they are and become float32 where they are used, one matrix at a time. A trace keeps that step,
so the exported file has the 16-bit weights, and all arithmetic is float32 as in the copy itself.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from transformers.modeling_utils import PreTrainedModel

SIXTEEN_BIT = (torch.bfloat16, torch.float16)


def traceable_copy(model: Any, rounded_to_fp16: bool = False) -> Any:
    """A copy in evaluation mode that shares the weights' memory and computes in float32.

    Args:
        model: A `PreTrainedModel` on the CPU; it is not changed, and what is done to the copy does not show in it.
        rounded_to_fp16: Give the copy weights of its own in fp16, unless they are; what is beyond its range becomes
            the largest number.
    """
    shared: dict[int, Any] = {}
    for parameter in model.parameters():
        values = _fp16(parameter.detach()) if rounded_to_fp16 else parameter.detach()
        shared[id(parameter)] = torch.nn.Parameter(values, requires_grad=False)
    copied = copy.deepcopy(model, memo=shared).eval()
    copied.config.dtype = torch.float32
    for module in list(copied.modules()):
        if isinstance(module, PreTrainedModel):
            module.loss_function = None  # the tracer reads all attributes, and this one warns (5.23) unless it is set
        _widen(module)
    return copied


def _fp16(values: torch.Tensor) -> torch.Tensor:
    largest = torch.finfo(torch.float16).max
    is_wider = values.dtype in (torch.float32, torch.bfloat16)
    return values.half().clamp_(-largest, largest) if is_wider else values


def traced_dtype(model: Any) -> str:
    """The type of most weights of a traceable copy, for example "bfloat16"."""
    sizes: dict[torch.dtype, int] = {}
    for parameter in model.parameters():
        sizes[parameter.dtype] = sizes.get(parameter.dtype, 0) + parameter.numel()
    return str(max(sizes, key=sizes.__getitem__)).removeprefix("torch.")


def _widen(module: torch.nn.Module) -> None:
    """Matrices are widened at their use; vectors and buffers at once, they are small."""
    for name, buffer in module.named_buffers(recurse=False):
        if buffer.dtype in SIXTEEN_BIT:
            module._buffers[name] = buffer.float()
    matrices = []
    for name, parameter in module.named_parameters(recurse=False):
        if parameter.dtype in SIXTEEN_BIT and parameter.ndim > 1:
            matrices.append(name)
        elif parameter.dtype in SIXTEEN_BIT:
            parameter.data = parameter.data.float()
    if matrices:
        module.forward = _widened(module, matrices)


def _widened(module: torch.nn.Module, names: list[str]) -> Callable[..., Any]:
    """The module's forward pass, in which its parameters are float32.

    A parametrization would be neater, but torch.jit.trace (2.13) keeps the value of each in the traced module.
    """
    narrow_forward = module.forward

    @functools.wraps(narrow_forward)
    def forward(*args: Any, **kwargs: Any) -> Any:
        narrow = {name: module._parameters[name] for name in names}
        module._parameters.update({name: weight.float() for name, weight in narrow.items()})
        try:
            return narrow_forward(*args, **kwargs)
        finally:
            module._parameters.update(narrow)

    return forward
