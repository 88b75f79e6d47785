"""From a traceable copy of a model to an OpenVINO model that keeps keys and values as its state."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as ops
from openvino._offline_transformations import apply_make_stateful_transformation
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
from transformers.cache_utils import DynamicCache, DynamicLayer
from transformers.modeling_utils import PreTrainedModel

from mlflow_llm_plugins.errors import UnsupportedFeatureError
from mlflow_llm_plugins.quantized_llm.openvino_export.attention import registered

_INPUTS = ("input_ids", "attention_mask", "position_ids")
_BATCH, _NEW, _PAST = 2, 3, 5  # of the traced example: all different, so that no dimension passes for another


@dataclass(frozen=True, slots=True)
class LayerShape:
    """Keys and values of a layer, for each token."""

    key_heads: int
    key_width: int
    value_heads: int
    value_width: int

    def zeros(self, batch: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Empty keys and values: [batch, heads, tokens, width] each."""
        return (
            torch.zeros(batch, self.key_heads, tokens, self.key_width),
            torch.zeros(batch, self.value_heads, tokens, self.value_width),
        )


class _WithPast(torch.nn.Module):
    """The model as a function of tensors alone: keys and values go in, and come out longer."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        past: Sequence[torch.Tensor],
    ) -> tuple[torch.Tensor, ...]:
        cache = _filled_cache(past)
        logits = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        ).logits
        return (logits, *(states for layer in cache.layers for states in (layer.keys, layer.values)))


def convert(model: Any) -> ov.Model:
    """Trace the model and bring it into the form that OpenVINO GenAI serves.

    Args:
        model: A traceable copy; its attention is another afterwards.

    Returns:
        Inputs input_ids, attention_mask, position_ids, beam_idx; output logits [batch, tokens, vocabulary]; keys and
        values of all layers as variables. Its constants share the copy's memory.

    Raises:
        UnsupportedFeatureError: The reason, without the architecture's name.
    """
    if "position_ids" not in inspect.signature(model.forward).parameters:
        raise UnsupportedFeatureError("its forward pass takes no position_ids")
    with registered() as name, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the tracer: each branch that it takes
        _use_functions(model, name)
        layers = _layer_shapes(model)
        # Without the tracer's check, which runs the trace twice more and keeps a float32 copy of 16-bit weights.
        example = _example(layers)
        decoder = TorchScriptPythonDecoder(
            _WithPast(model), example_input=example, trace_kwargs={"check_trace": False}
        )
        converted = ov.convert_model(decoder, example_input=example)
    _name_ports(converted, layers)
    _make_stateful(converted, layers)
    _name_layers(converted)
    return converted


def _use_functions(model: Any, name: str) -> None:
    """Let the model attend by the functions of that name.

    Falcon's layers (5.23) have an attention of their own, of which `sdpa` is the form to trace; the mask is ours.
    """
    model.config._attn_implementation = name
    model.config._experts_implementation = name
    if model._supports_attention_backend:
        return
    for_layers = copy.copy(model.config)
    for_layers._attn_implementation = "sdpa"
    for module in model.modules():
        if getattr(module, "config", None) is model.config and not isinstance(module, PreTrainedModel):
            module.config = for_layers


def _filled_cache(past: Sequence[torch.Tensor]) -> DynamicCache:
    cache = DynamicCache()
    for keys, values in zip(past[::2], past[1::2], strict=True):
        layer = DynamicLayer()
        layer.keys, layer.values, layer.is_initialized = keys, values, True
        cache.layers.append(layer)
    return cache


def _layer_shapes(model: Any) -> list[LayerShape]:
    """What two tokens leave in an empty cache."""
    cache = DynamicCache()
    ids = torch.tensor([[0, 1]])
    model(input_ids=ids, attention_mask=torch.ones_like(ids), past_key_values=cache, use_cache=True)
    if not cache.layers or any(getattr(layer, "keys", None) is None for layer in cache.layers):
        raise UnsupportedFeatureError("not every layer has keys and values of its own")
    return [
        LayerShape(layer.keys.shape[1], layer.keys.shape[3], layer.values.shape[1], layer.values.shape[3])
        for layer in cache.layers
    ]


def _example(layers: Sequence[LayerShape]) -> dict[str, Any]:
    return {
        "input_ids": torch.ones(_BATCH, _NEW, dtype=torch.long),
        "attention_mask": torch.ones(_BATCH, _PAST + _NEW, dtype=torch.long),
        "position_ids": torch.arange(_PAST, _PAST + _NEW).repeat(_BATCH, 1),
        "past": tuple(states for layer in layers for states in layer.zeros(_BATCH, _PAST)),
    }


def _state_names(layers: Sequence[LayerShape], prefix: str) -> list[str]:
    return [f"{prefix}.{i}.{kind}" for i in range(len(layers)) for kind in ("key", "value")]


def _name_ports(model: ov.Model, layers: Sequence[LayerShape]) -> None:
    """Names by which the library knows inputs and outputs, and shapes that leave batch and lengths open."""
    for port, name in zip(model.inputs, [*_INPUTS, *_state_names(layers, "past_key_values")], strict=True):
        port.get_tensor().set_names({name})
    for port, name in zip(model.outputs, ["logits", *_state_names(layers, "present")], strict=True):
        port.get_tensor().set_names({name})
    shapes = [[-1, -1]] * len(_INPUTS)
    for layer in layers:
        shapes += [[-1, layer.key_heads, -1, layer.key_width], [-1, layer.value_heads, -1, layer.value_width]]
    for port, shape in zip(model.inputs, shapes, strict=True):
        port.get_node().set_partial_shape(ov.PartialShape(shape))
    model.validate_nodes_and_infer_types()


def _make_stateful(model: ov.Model, layers: Sequence[LayerShape]) -> None:
    """Turn keys and values from inputs and outputs into variables whose rows `beam_idx` picks."""
    beam_idx = ops.parameter([-1], np.int32, name="beam_idx")
    beam_idx.output(0).get_tensor().set_names({"beam_idx"})
    model.add_parameters([beam_idx])
    for port in model.inputs[len(_INPUTS) : -1]:
        users = port.get_target_inputs()
        picked = ops.gather(port, beam_idx, ops.constant(0, dtype=np.int64))
        for user in users:
            user.replace_source_output(picked.output(0))
    model.validate_nodes_and_infer_types()
    pairs = zip(_state_names(layers, "past_key_values"), _state_names(layers, "present"), strict=True)
    apply_make_stateful_transformation(model, dict(pairs))
    _start_empty(model)


def _start_empty(model: ov.Model) -> None:
    """Each variable begins as [batch, heads, 0, width]."""
    shape = ops.shape_of(model.input("input_ids"), "i64")
    batch = ops.gather(shape, ops.constant([0], dtype=np.int64), ops.constant(0, dtype=np.int64))
    for node in model.get_ops():
        if node.get_type_name() == "ReadValue":
            _, heads, _, width = node.get_output_partial_shape(0)
            rest = ops.constant(np.array([heads.get_length(), 0, width.get_length()], np.int64))
            empty = ops.broadcast(ops.constant(np.float32(0)), ops.concat([batch, rest], 0))
            node.set_arguments([empty])
    model.validate_nodes_and_infer_types()


def _name_layers(model: ov.Model) -> None:
    """Name each operation by the module that did it, as the checkpoint names it: adapters find layers so."""
    for node in model.get_ops():
        name = node.get_friendly_name()
        if name.startswith("__module.model."):
            node.set_friendly_name("__module." + name.removeprefix("__module.model."))
