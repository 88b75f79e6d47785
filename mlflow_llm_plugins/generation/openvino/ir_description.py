"""What the XML of an OpenVINO model says of it, read as a stream and without openvino."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from mlflow_llm_plugins.errors import CheckpointError
from mlflow_llm_plugins.generation.openvino.ir_files import TOKENIZER_FILES

_INPUTS = frozenset({"input_ids", "attention_mask", "position_ids", "beam_idx"})
_STATE = re.compile(r"past_key_values\.(\d+)\.(key|value)")
_FORMATS = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "u8": "int8", "i8": "int8", "u4": "int4", "i4": "int4"}
_MODE = re.compile(r"(int8|int4)_(sym|asym)")
# Elements that are of use to nobody here once they are read; with them in memory a large file takes gigabytes.
_LARGE = ("layer", "edges")


@dataclass(frozen=True, slots=True)
class KVShape:
    """What a layer keeps of each token."""

    key_heads: int
    key_width: int
    value_heads: int
    value_width: int

    @property
    def values(self) -> int:
        """Numbers in keys and values together."""
        return self.key_heads * self.key_width + self.value_heads * self.value_width


@dataclass(frozen=True, slots=True)
class IRDescription:
    """A stateful causal language model."""

    weight_format: str  # "int8", "int4", "fp16", "bf16", "fp32", or nncf's name of another
    group_size: int | None  # weights that share a scale; -1: a row; None: not quantized
    symmetric: bool | None  # None: not quantized, or not said
    vocab_size: int  # width of the logits
    kv_layers: tuple[KVShape, ...]
    bin_bytes: int  # that the file of its weights has at least
    has_tokenizer_ir: bool  # beside it, with its detokenizer
    runtime_options: frozenset[str] = frozenset()  # properties of the device that its exporter has set


@dataclass(slots=True)
class _Contents:
    """What is collected on the way through the file."""

    inputs: list[set[str]] = field(default_factory=list)  # names of each
    logits_shape: list[int] | None = None
    state: dict[tuple[int, str], tuple[int, int]] = field(default_factory=dict)  # (layer, kind) -> (heads, width)
    weight_bytes: Counter[str] = field(default_factory=Counter)  # by element type
    bin_bytes: int = 0  # end of the last weight
    compression: dict[str, str] = field(default_factory=dict)  # nncf's settings
    runtime_options: frozenset[str] = frozenset()


def describe_ir(xml: Path) -> IRDescription:
    """Read an openvino_model.xml; tens of milliseconds, also for large models.

    Args:
        xml: The file; a tokenizer's files are looked for beside it.

    Raises:
        CheckpointError: It cannot be read, or is no causal language model that keeps its state.
    """
    try:
        contents = _read(xml)
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise CheckpointError(f"{xml} cannot be read: {error}. Export or download it again.") from error
    _check_inputs_and_outputs(xml, contents)
    kv_layers = _kv_layers(xml, contents)
    weight_format, symmetric = _weight_format(contents)
    group_size = contents.compression.get("group_size")
    return IRDescription(
        weight_format=weight_format,
        group_size=int(group_size) if group_size is not None else None,
        symmetric=symmetric,
        vocab_size=_vocab_size(xml, contents),
        kv_layers=kv_layers,
        bin_bytes=contents.bin_bytes,
        has_tokenizer_ir=all((xml.parent / name).is_file() for name in TOKENIZER_FILES),
        runtime_options=contents.runtime_options,
    )


def _read(xml: Path) -> _Contents:
    contents = _Contents()
    for element, is_in_body in _large_elements(xml):
        if element.tag == "layer":
            _add_layer(contents, element, is_in_body)
        elif element.tag == "weight_compression":
            contents.compression = {setting.tag: setting.get("value", "") for setting in element}
        elif element.tag == "runtime_options":
            contents.runtime_options = frozenset(option.tag for option in element)
    return contents


def _large_elements(xml: Path) -> Iterator[tuple[ElementTree.Element, bool]]:
    """Each element as it ends, and whether it is in the body of a loop; layers and edges are dropped after that."""
    depth = 0
    for event, element in ElementTree.iterparse(xml, ("start", "end")):
        if element.tag == "layers":
            depth += 1 if event == "start" else -1
        if event == "end":
            yield element, depth > 1
            if element.tag in _LARGE:
                element.clear()


def _add_layer(contents: _Contents, layer: ElementTree.Element, is_in_body: bool) -> None:
    kind, data = layer.get("type"), layer.find("data")
    if kind in ("Parameter", "Result") and is_in_body:
        return
    if kind == "Parameter":
        contents.inputs.append(_names(layer))
    elif kind == "Result" and ("logits" in _names(layer) or layer.get("output_names") == "logits"):
        contents.logits_shape = _dimensions(layer.find("input/port"))
    elif kind == "Const" and data is not None:
        size = int(data.get("size", 0))
        contents.weight_bytes[data.get("element_type", "")] += size
        contents.bin_bytes = max(contents.bin_bytes, int(data.get("offset", 0)) + size)
    elif kind == "ReadValue" and data is not None:
        found = _STATE.match(data.get("variable_id", ""))
        shape = _dimensions(layer.find("output/port"))
        if found and len(shape) == 4:
            contents.state[int(found[1]), found[2]] = (shape[1], shape[3])


def _names(layer: ElementTree.Element) -> set[str]:
    """Its own name, and those of its port's tensor."""
    ports = (port.get("names", "").split(",") for port in layer.iter("port"))
    return {layer.get("name", ""), *(name for names in ports for name in names)}


def _dimensions(port: ElementTree.Element | None) -> list[int]:
    """-1 stands for an open one."""
    return [int(dimension.text or -1) for dimension in port.iter("dim")] if port is not None else []


def _check_inputs_and_outputs(xml: Path, contents: _Contents) -> None:
    missing = sorted(_INPUTS.difference(*contents.inputs))
    if missing or contents.logits_shape is None:
        lacks = [*(f"input {name!r}" for name in missing), *([] if contents.logits_shape else ["output 'logits'"])]
        raise CheckpointError(
            f"{xml} is no causal language model that OpenVINO GenAI serves: it has no {', no '.join(lacks)}. Export "
            "it with quantization='openvino-int8', or with optimum-intel for text-generation-with-past, stateful."
        )
    if unknown := sorted(min(names - {""}) for names in contents.inputs if not names & _INPUTS):
        raise CheckpointError(
            f"{xml} has inputs that nothing is known of here: {', '.join(unknown)}. Served are models that take "
            f"{', '.join(sorted(_INPUTS))}: export a language model of text alone, for text-generation-with-past."
        )


def _kv_layers(xml: Path, contents: _Contents) -> tuple[KVShape, ...]:
    """Keys and values of each layer, all of them."""
    layers = range(1 + max((layer for layer, _ in contents.state), default=-1))
    pairs = [(contents.state.get((i, "key")), contents.state.get((i, "value"))) for i in layers]
    complete = tuple(KVShape(*key, *value) for key, value in pairs if key and value)
    if not complete or len(complete) != len(pairs):
        raise CheckpointError(
            f"{xml} does not keep the keys and values of all layers as its state, as OpenVINO GenAI needs it. Export "
            "it again, stateful."
        )
    if any(size < 1 for layer in complete for size in (layer.key_heads, layer.key_width, layer.value_width)):
        raise CheckpointError(f"{xml} leaves the number or width of its heads open. Export it again, with fixed ones.")
    return complete


def _vocab_size(xml: Path, contents: _Contents) -> int:
    size = (contents.logits_shape or [-1])[-1]
    if size < 1:
        raise CheckpointError(f"{xml} leaves the width of its logits open. Export it again, with a fixed one.")
    return size


def _weight_format(contents: _Contents) -> tuple[str, bool | None]:
    """By nncf's record; else the type that has most bytes."""
    mode = contents.compression.get("mode")
    if mode is None:
        types = {name: size for name, size in contents.weight_bytes.items() if name in _FORMATS}
        return _FORMATS[max(types, key=types.__getitem__, default="f32")], None
    found = _MODE.fullmatch(mode)
    return (found[1], found[2] == "sym") if found else (mode, None)
