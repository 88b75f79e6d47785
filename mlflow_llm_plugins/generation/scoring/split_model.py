"""A model in two parts: the body, which needs whole texts, and what follows it, on as few places at a time as wanted.

Some models scale, cap or mask the logits behind the output layer. Their own code does it here too: it is run without
the body, on states that the body gave before.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from mlflow_llm_plugins.generation.architecture import input_device, vocabulary_size

_logger = logging.getLogger(__name__)

Head = Callable[[torch.Tensor], torch.Tensor]  # [places, hidden size] -> [places, vocabulary]


@dataclass(frozen=True, slots=True)
class SplitModel:
    """Both parts; one after the other they are the model."""

    body: Any
    head: Head


def split(model: Any) -> SplitModel | None:
    """The parts of the model, if it can be run in parts; this is tried out.

    Args:
        model: Nothing else runs forward passes on it.
    """
    names = (name for name in (model.base_model_prefix, "model") if name in model._modules)
    name = next(names, None)  # Llama 4 gives a prefix that it does not have
    if name is None:
        return None
    body = model._modules[name]
    ids = torch.arange(4, device=input_device(model))[None] % vocabulary_size(model)
    with torch.no_grad():
        output = body(input_ids=ids, use_cache=False)
        logits = model(input_ids=ids, use_cache=False).logits[0]
    if getattr(output, "last_hidden_state", None) is None:
        return None
    hidden = output.last_hidden_state[0]
    right = (head for head in _heads(model, name, type(output)) if _gives(head, hidden, logits))
    head = next(right, None)
    return None if head is None else SplitModel(body, head)


def _heads(model: Any, body_name: str, output_type: type[Any]) -> Iterator[Head]:
    yield _WithoutBody(model, body_name, output_type)
    if (output_layer := model.get_output_embeddings()) is not None:
        yield output_layer


def _gives(head: Head, hidden: torch.Tensor, logits: torch.Tensor) -> bool:
    try:
        with torch.no_grad():
            found = head(hidden).to(logits.device)
    except Exception as error:  # whatever an architecture has against being run in parts
        _logger.debug("%s cannot follow the body alone: %s", type(head).__name__, error)
        return False
    return found.shape == logits.shape and bool(torch.allclose(found.float(), logits.float(), atol=1e-6))


class _WithoutBody:
    """All that a model does behind its body."""

    def __init__(self, model: Any, body_name: str, output_type: type[Any]) -> None:
        self._given = _GivenStates(model._modules[body_name], output_type)
        self._rest = copy.copy(model)  # the same layers in another table of them
        self._rest._modules = {**model._modules, body_name: self._given}
        vars(self._rest).pop("forward", None)  # of accelerate, bound to the whole model

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        no_ids = torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device)
        self._given.states = hidden[None]
        try:
            logits: torch.Tensor = self._rest(input_ids=no_ids, use_cache=False).logits[0]
        finally:
            self._given.states = None
        return logits


class _GivenStates:
    """In the place of a body: gives what is put here, whatever is asked; has the body's attributes."""

    def __init__(self, body: Any, output_type: type[Any]) -> None:
        self.states: torch.Tensor | None = None
        self._body = body
        self._output_type = output_type

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._output_type(last_hidden_state=self.states)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)
