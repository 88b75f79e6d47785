"""What a decode step must read from memory, at least: the weights once, and the keys and values of all its rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.loads import Load


@dataclass(frozen=True, slots=True)
class Reads:
    """Bytes."""

    weights: float  # as this engine stores them; an input embedding of its own is left out, of which rows are read
    per_token: float  # keys and values of all layers, in the cache's type

    def of_step(self, load: Load) -> float:
        """Of a step in which all rows of the load decode, each half way through its answer."""
        return self.weights + self.per_token * sum(prompt + new / 2 for prompt, new in load.lengths)


def reads_of(model: Any) -> Reads:
    """Of a torch model, packed as it is, whose cache has the type of its weights."""
    config = model.config
    width = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    return Reads(_weight_bytes(model), width * config.dtype.itemsize)


def _weight_bytes(model: Any) -> int:
    total = sum(_stored_bytes(parameter) for parameter in model.parameters())  # tied ones count once
    embedding = model.get_input_embeddings().weight
    is_tied = embedding is model.get_output_embeddings().weight
    return total if is_tied else total - embedding.nbytes


def _stored_bytes(parameter: Any) -> int:
    """With the scales of bitsandbytes beside a packed weight."""
    state = getattr(parameter, "quant_state", None)
    scales = [getattr(state, "absmax", None), getattr(parameter, "SCB", None)]
    return int(parameter.nbytes) + sum(scale.nbytes for scale in scales if scale is not None)
