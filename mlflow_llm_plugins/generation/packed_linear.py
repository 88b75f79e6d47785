"""Linear layers on weights that oneDNN has packed once, which many CPUs multiply much faster than `nn.Linear`.

The two operators are those that torch's own compiler emits for frozen models. They are not public: they are looked
for, compared with `nn.Linear`, timed on the model's own largest layer, and left alone wherever any of this says so.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from mlflow_llm_plugins.hardware import available_memory_bytes

_logger = logging.getLogger(__name__)

_PACKED_FOR_ROWS = 16  # serves every number of rows; packing for one row is slower from four rows on
_TIMED_ROWS = (1, 16)
_TIMINGS = 7
_FASTER = 0.9  # the time of packed weights may be this share of the others', or it is not worth it
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}  # relative to the largest output
_TIED_SHARE = 0.25  # of the free memory, which a packed copy of weights that stay as they are may take


class PackedLinear(nn.Module):
    """`nn.Linear` on packed weights, for inference."""

    packed: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        """Pack the weights of a layer, which is not changed."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        # a buffer: whatever copies a model and shares its tensors shares this one too
        self.register_buffer("packed", _pack(linear), persistent=False)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach(), persistent=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """[..., in_features] to [..., out_features]."""
        output: torch.Tensor = torch.ops.mkldnn._linear_pointwise(input, self.packed, self.bias, "none", [], "")
        return output


def pack_linear_layers(model: Any, wanted: bool | None) -> int:
    """Replace the model's dense linear layers on a CPU, one by one, so that no weight is there twice for long.

    Layers of quantized weights, and of types that cannot be packed, are left alone. A weight that something else needs
    too (an embedding tied to the output layer) gets a packed copy where memory is ample.

    Args:
        model: Changed in place.
        wanted: None measures first; True packs where packed layers are right, however fast; False does nothing.

    Returns:
        How many layers were replaced.
    """
    if wanted is False or model.device.type != "cpu":
        return 0
    layers = [layer for _, _, layer in _dense_layers(model)]
    if not layers or not _is_right(layers):
        return 0
    if wanted is None and not _is_faster(max(layers, key=lambda layer: layer.weight.numel())):
        return 0
    shared = _shared_weights(model)
    replaced = 0
    for parent, name, layer in list(_dense_layers(model)):
        if id(layer.weight) not in shared or _has_room_for(layer.weight):
            setattr(parent, name, PackedLinear(layer))
            replaced += 1
    _logger.info("%d linear layers run on packed weights.", replaced)
    return replaced


def _dense_layers(model: Any) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    for parent in model.modules():
        for name, layer in parent.named_children():
            # not subclasses, such as bitsandbytes': they multiply in their own way
            if type(layer) is nn.Linear and layer.weight.dtype in _TOLERANCE and not _is_hooked(layer):
                yield parent, name, layer


def _is_hooked(layer: nn.Module) -> bool:
    """Whether accelerate moves its weights about, or somebody else listens."""
    return hasattr(layer, "_hf_hook") or bool(layer._forward_hooks or layer._forward_pre_hooks)


def _shared_weights(model: Any) -> set[int]:
    """Ids of the parameters that more than one module has."""
    seen: set[int] = set()
    twice: set[int] = set()
    for module in model.modules():
        for parameter in module._parameters.values():
            (twice if id(parameter) in seen else seen).add(id(parameter))
    return twice


def _has_room_for(weight: torch.Tensor) -> bool:
    return bool(weight.numel() * weight.element_size() <= _TIED_SHARE * available_memory_bytes())


def _pack(linear: nn.Linear) -> torch.Tensor:
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _PACKED_FOR_ROWS)
    return packed


def _is_right(layers: list[nn.Linear]) -> bool:
    """Whether packed weights give the layers' own results, for one layer of each shape."""
    shapes = {(layer.weight.shape, layer.weight.dtype, layer.bias is None): layer for layer in layers}
    return all(_gives_the_same(layer) for layer in shapes.values())


def _gives_the_same(layer: nn.Linear) -> bool:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn((1, 3, layer.in_features), generator=generator).to(layer.weight.dtype)
    with torch.no_grad():
        try:
            ours = PackedLinear(layer)(rows)
        except (RuntimeError, AttributeError, NotImplementedError) as error:
            _logger.debug("Linear layers cannot be packed here: %s", error)
            return False
        expected = layer(rows)
    scale = expected.abs().max().clamp(min=1e-6)
    return bool(((ours - expected).abs().max() / scale) <= _TOLERANCE[layer.weight.dtype])


def _is_faster(layer: nn.Linear) -> bool:
    packed = PackedLinear(layer)
    ratios = []
    for count in _TIMED_ROWS:
        rows = torch.randn((1, count, layer.in_features)).to(layer.weight.dtype)
        ratios.append(_seconds(packed, rows) / _seconds(layer, rows))
    _logger.info(
        "Packed weights take %s of the time of the others at %s rows.",
        " and ".join(f"{ratio:.2f}" for ratio in ratios),
        " and ".join(map(str, _TIMED_ROWS)),
    )
    return statistics.mean(ratios) <= _FASTER


def _seconds(layer: nn.Module, rows: torch.Tensor) -> float:
    times = []
    with torch.no_grad():
        layer(rows)
        for _ in range(_TIMINGS):
            started = time.perf_counter()
            layer(rows)
            times.append(time.perf_counter() - started)
    return statistics.median(times)
