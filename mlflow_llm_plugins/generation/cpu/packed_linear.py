"""Linear layers on weights that oneDNN has packed once, which many CPUs multiply much faster than `nn.Linear`.

The two operators are those that torch's own compiler emits for frozen models. They are not public: they are looked
for, compared with `nn.Linear`, timed on the model's own layers, and left alone wherever any of this says so.
"""

from __future__ import annotations

import copy
import logging
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from mlflow_llm_plugins.generation.cpu.timing import fastest, in_thread_of_its_own
from mlflow_llm_plugins.hardware import available_memory_bytes

_logger = logging.getLogger(__name__)

_PACKED_FOR_ROWS = 16  # serves every number of rows; packing for one row is slower from four rows on
_FILLED_UP = 4  # rows for which oneDNN has a kernel that can be faster than the one for a single row
_MORE_THAN_A_CACHE = 16 << 20  # bytes
_FASTER = 0.9  # the time of packed weights may be this share of the others', or it is not worth it
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}  # relative to the largest output
_TIED_SHARE = 0.25  # of the free memory, which a packed copy of weights that stay as they are may take

Place = tuple[nn.Module, str]  # a layer, as its parent and its name there


@dataclass(frozen=True, slots=True)
class Kind:
    """What layers have in common that are equally fast."""

    shape: torch.Size
    dtype: torch.dtype
    has_bias: bool

    @classmethod
    def of(cls, layer: nn.Linear) -> Kind:
        """That of one layer."""
        return cls(layer.weight.shape, layer.weight.dtype, layer.bias is not None)


class PackedLinear(nn.Module):
    """`nn.Linear` on packed weights, for inference."""

    packed: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, linear: nn.Linear, min_rows: int = 1) -> None:
        """Pack the weights of a layer, which is not changed; fewer rows than `min_rows` are filled up."""
        super().__init__()
        self.min_rows = min_rows
        self.in_features, self.out_features = linear.in_features, linear.out_features
        # a buffer: whatever copies a model and shares its tensors shares this one too
        self.register_buffer("packed", _pack(linear), persistent=False)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach(), persistent=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """[..., in_features] to [..., out_features]."""
        rows = input.shape[-2]
        if rows >= self.min_rows or input.numel() >= self.min_rows * self.in_features:
            return self._multiply(input)
        if rows == 1:
            filled = input.expand(*input.shape[:-2], self.min_rows, self.in_features)  # cheaper than zeros behind it
        else:
            filled = nn.functional.pad(input, (0, 0, 0, self.min_rows - rows))
        return self._multiply(filled).narrow(-2, 0, rows)

    def _multiply(self, input: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = torch.ops.mkldnn._linear_pointwise(input, self.packed, self.bias, "none", [], "")
        return output


def pack_linear_layers(model: Any, wanted: bool | None) -> int:
    """Replace the model's dense linear layers on a CPU, one by one, so that no weight is there twice for long.

    Layers of quantized weights, and of types that cannot be packed, are left alone. A weight that something else needs
    too (an embedding tied to the output layer) gets a packed copy where memory is ample.

    Args:
        model: Changed in place.
        wanted: None measures each shape of layer first; True packs where packed layers are right, however fast; False
            does nothing.

    Returns:
        How many layers were replaced.
    """
    if wanted is False or model.device.type != "cpu":
        return 0
    places = [(parent, name) for parent in model.modules() for name in _dense_layers(parent)]
    samples = _samples(places)
    if not samples or not all(map(_give_the_same, samples.values())) or not _hides_its_weights(model, places):
        return 0
    min_rows = {kind: _measured(layers) for kind, layers in samples.items()}
    del samples  # it keeps layers alive
    shared = _shared_weights(model)
    replaced = 0
    for parent, name in places:  # without a reference to the layers, so that each is freed when it is replaced
        best = min_rows[Kind.of(getattr(parent, name))]
        if best is None and wanted is None:
            continue
        weight = getattr(parent, name).weight
        if id(weight) not in shared or _has_room_for(weight):
            setattr(parent, name, PackedLinear(getattr(parent, name), best or 1))
            replaced += 1
        del weight
    _logger.info("%d of %d linear layers run on packed weights.", replaced, len(places))
    return replaced


def _dense_layers(parent: nn.Module) -> list[str]:
    """Names of the children that can be packed; not subclasses, such as bitsandbytes': they have ways of their own."""
    return [
        name
        for name, layer in parent.named_children()
        if type(layer) is nn.Linear and layer.weight.dtype in _TOLERANCE and not _is_hooked(layer)
    ]


def _samples(places: Sequence[Place]) -> dict[Kind, list[nn.Linear]]:
    """Layers of each kind to measure: so many that their weights do not stay in a core's own cache."""
    samples: dict[Kind, list[nn.Linear]] = {}
    for place in places:
        layer: nn.Linear = getattr(*place)
        layers = samples.setdefault(Kind.of(layer), [])
        if len(layers) * layer.weight.nbytes < _MORE_THAN_A_CACHE:
            layers.append(layer)
    return samples


class _WithoutWeight(nn.Module):
    """A layer whose weight nobody sees."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.forward = layer.forward


def _hides_its_weights(model: Any, places: Sequence[Place]) -> bool:
    """Whether the model only calls its linear layers: some read a weight to multiply it in a way of their own."""
    layers = [getattr(*place) for place in places]
    try:
        for (parent, name), layer in zip(places, layers, strict=True):
            setattr(parent, name, _WithoutWeight(layer))
        with torch.no_grad():
            model(input_ids=torch.zeros((1, 1), dtype=torch.long), use_cache=True)
    except Exception as error:  # for want of a weight, or whatever keeps the model from running here at all
        _logger.info("Linear layers are not packed: %s", error)
        return False
    finally:
        for (parent, name), layer in zip(places, layers, strict=True):
            setattr(parent, name, layer)
    return True


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


def _give_the_same(layers: Sequence[nn.Linear]) -> bool:
    """Whether packed weights give the layers' own results, for the first one."""
    layer = layers[0]
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


def _measured(layers: Sequence[nn.Linear]) -> int | None:
    try:
        return in_thread_of_its_own(partial(_best_min_rows, layers))
    except RuntimeError as error:  # no memory for a second copy, or no end
        _logger.info("Packed weights %s cannot be measured: %s", [*layers[0].weight.shape], error)
        return None


def _best_min_rows(layers: Sequence[nn.Linear]) -> int | None:
    """How many rows to fill up to; None where packed weights are not worth it."""
    shape, dtype = layers[0].weight.shape, layers[0].weight.dtype
    row, rows = (torch.randn((1, count, shape[1])).to(dtype) for count in (1, _PACKED_FOR_ROWS))
    packed = [PackedLinear(layer) for layer in layers]
    filling = [_filled_up(layer) for layer in packed]
    many = fastest({"packed": partial(_run, packed, rows), "dense": partial(_run, layers, rows)})
    few = fastest(
        {
            "packed": partial(_run, packed, row),
            "filled up": partial(_run, filling, row),
            "dense": partial(_run, layers, row),
        }
    )
    min_rows = 1 if few["packed"] <= few["filled up"] else _FILLED_UP
    ratios = (min(few["packed"], few["filled up"]) / few["dense"], many["packed"] / many["dense"])
    _logger.info("Packed weights %s take %.2f and %.2f of the time of others at 1 and 16 rows.", [*shape], *ratios)
    return min_rows if statistics.mean(ratios) <= _FASTER else None


def _filled_up(layer: PackedLinear) -> PackedLinear:
    """The same weights, with few rows filled up."""
    other = copy.copy(layer)
    other.min_rows = _FILLED_UP
    return other


def _run(layers: Sequence[nn.Module], rows: torch.Tensor) -> None:
    for layer in layers:
        layer(rows)
