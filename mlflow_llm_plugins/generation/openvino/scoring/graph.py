"""The graph of an IR, changed so that it answers for the places that are asked for instead of for all.

Between the body and the output layer the wanted places are picked, so that logits of others never exist; behind it
the log-probabilities of wanted tokens are, so that a vocabulary leaves the graph only where somebody asks for it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

PLACES = "places"  # input, [n]: indices into [rows * tokens] of the places with logits
PICKS = "picks"  # input, [m, 2]: index of a place and token id
LOGIT_PLACES = "logit_places"  # input: indices of the places whose logits leave the graph
LOGPROB_PLACES = "logprob_places"  # input: the same for log-probabilities

PICKED = "picked"  # output, [m]: log-probabilities of the picks
LOGITS = "place_logits"  # output, [len(logit_places), vocabulary]
LOGPROBS = "place_logprobs"  # output, [len(logprob_places), vocabulary]

# what stands between output layer and logits: a bias, a scale, a cap, a cast
_BEHIND_OUTPUT_LAYER = frozenset({"Add", "Multiply", "Divide", "Subtract", "Tanh", "Convert"})


def answer_for_places(model: Any) -> None:
    """Change a stateful model in place: `logits` goes, the inputs and outputs above come.

    Args:
        model: An `openvino.Model` with the output `logits`, [rows, tokens, vocabulary].
    """
    from openvino import opset13 as op

    result = model.output("logits").get_node()
    places = _input(model, PLACES, [-1])
    logits = op.convert(_logits_at(result.input_value(0), places), "f32")
    model.remove_result(result)
    model.validate_nodes_and_infer_types()
    logits = op.squeeze(logits, _axis(0))  # [places, vocabulary]
    # exact for large logits too, which a sum of bare exponentials is not
    logprobs = op.log_softmax(logits, 1)
    outputs = {
        PICKED: op.gather_nd(logprobs, _input(model, PICKS, [-1, 2])),
        LOGITS: op.gather(logits, _input(model, LOGIT_PLACES, [-1]), _axis(0)),
        LOGPROBS: op.gather(logprobs, _input(model, LOGPROB_PLACES, [-1]), _axis(0)),
    }
    for name, node in outputs.items():
        node.output(0).set_names({name})
        model.add_results([op.result(node)])
    model.validate_nodes_and_infer_types()


def vocabulary_size(model: Any) -> int:
    """Width of the logits of a model that answers for places."""
    return int(model.output(LOGITS).get_partial_shape()[1].get_length())


def _logits_at(logits: Any, places: Any) -> Any:
    """[1, places, vocabulary]; the output layer, where it is found, gets the wanted places only."""
    output_layer = _output_layer(logits.get_node())
    if output_layer is None:
        return _pick(logits, places)
    hidden = output_layer.input_value(0)
    output_layer.input(0).replace_source_output(_pick(hidden, places))
    return logits


def _pick(values: Any, places: Any) -> Any:
    """[rows, tokens, width] -> [1, places, width]."""
    from openvino import opset13 as op

    width = values.get_partial_shape()[2].get_length()
    flat = op.reshape(values, op.constant(np.array([1, -1, width], np.int64)), False)
    return op.gather(flat, places, _axis(1)).output(0)


def _output_layer(node: Any) -> Any | None:
    """The matrix product that gives the logits; None where something else stands behind the body."""
    while node.get_type_name() in _BEHIND_OUTPUT_LAYER:
        sources = [port.get_source_output() for port in node.inputs()]
        varying = [source for source in sources if source.get_partial_shape().is_dynamic]
        if len(varying) != 1:
            return None
        node = varying[0].get_node()
    hidden = node.input_value(0).get_partial_shape() if node.get_type_name() == "MatMul" else None
    # weights that are decompressed are inputs of the product, too, but their shape is known
    return node if hidden is not None and hidden.is_dynamic and len(hidden) == 3 and hidden[2].is_static else None


def _input(model: Any, name: str, shape: list[int]) -> Any:
    from openvino import opset13 as op

    parameter = op.parameter(shape, np.int64, name=name)
    parameter.output(0).set_names({name})
    model.add_parameters([parameter])
    return parameter


def _axis(axis: int) -> Any:
    from openvino import opset13 as op

    return op.constant(axis, dtype=np.int64)
