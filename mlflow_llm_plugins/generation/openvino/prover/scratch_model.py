"""A model of one layer that knows nothing, with the vocabulary of a real one: a pipeline on it is made in no time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_llm_plugins.generation.openvino.ir_files import CONFIG_FILE, MODEL_FILE

_WIDTH = 16  # of the only head


def save_scratch_model(folder: Path, vocab_size: int) -> None:
    """Write what `openvino_genai.ContinuousBatchingPipeline` needs of a model into a folder.

    Args:
        folder: Is there, and gets `openvino_model.xml`, its `.bin` and `config.json`.
        vocab_size: Width of the logits.
    """
    import openvino

    openvino.save_model(_scratch_model(vocab_size), folder / MODEL_FILE)
    (folder / CONFIG_FILE).write_text(json.dumps({"model_type": "llama", "vocab_size": vocab_size}), encoding="utf-8")


def _scratch_model(vocab_size: int) -> Any:
    """Attention over the ids themselves; every token is as probable as every other."""
    import openvino
    from openvino import opset13 as op

    ids, mask, positions = (
        _input(name, [-1, -1], np.int64) for name in ("input_ids", "attention_mask", "position_ids")
    )
    beams = _input("beam_idx", [-1], np.int32)
    batch = op.gather(op.shape_of(ids, "i64"), _whole([0]), _whole(0))
    values = op.unsqueeze(op.convert(op.add(ids, positions), "f32"), _whole([2]))  # [batch, tokens, 1]
    wide = op.multiply(values, op.constant(np.ones((1, 1, _WIDTH), np.float32)))  # [batch, tokens, width]
    heads = op.transpose(op.reshape(wide, _whole([0, 0, 1, _WIDTH]), True), _whole([0, 2, 1, 3]))
    keys, stores_keys = _cached("key", heads, batch, beams)
    contents, stores_contents = _cached("value", heads, batch, beams)
    biases = op.unsqueeze(op.unsqueeze(op.convert(mask, "f32"), _whole(1)), _whole(1))
    attended = op.transpose(op.scaled_dot_product_attention(heads, keys, contents, biases), _whole([0, 2, 1, 3]))
    hidden = op.reshape(attended, _whole([0, 0, _WIDTH]), True)
    logits = op.matmul(hidden, op.constant(np.zeros((vocab_size, _WIDTH), np.float32)), False, True)
    logits.output(0).get_tensor().set_names({"logits"})
    return openvino.Model([op.result(logits)], [stores_keys, stores_contents], [ids, mask, positions, beams])


def _cached(name: str, heads: Any, batch: Any, beams: Any) -> tuple[Any, Any]:
    """Keys or values of all tokens so far, and what stores them."""
    import openvino
    from openvino import opset13 as op

    variable = f"past_key_values.0.{name}present.0.{name}"
    empty = op.broadcast(op.constant(np.float32(0)), op.concat([batch, _whole([1, 0, _WIDTH])], 0))
    past = op.read_value(empty, variable, openvino.Type.f32, [-1, 1, -1, _WIDTH])
    present = op.concat([op.gather(past, beams, _whole(0)), heads], 2)
    return present, op.assign(present, variable)


def _input(name: str, shape: list[int], kind: Any) -> Any:
    from openvino import opset13 as op

    parameter = op.parameter(shape, kind, name=name)
    parameter.output(0).get_tensor().set_names({name})
    return parameter


def _whole(values: Any) -> Any:
    from openvino import opset13 as op

    return op.constant(np.array(values, np.int64))
