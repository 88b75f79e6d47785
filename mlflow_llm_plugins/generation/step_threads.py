"""How many CPU threads a step of few tokens is divided among: for a small model one is faster than all.

Waking the other threads for each operation can take longer than their share of the work. Where that is so is measured
on the model's own linear layers, in a thread like the one that generates.
"""

from __future__ import annotations

import itertools
import logging
from functools import partial
from typing import Any

import torch
from torch import nn

from mlflow_llm_plugins.generation.openmp import can_use_threads, use_threads
from mlflow_llm_plugins.generation.timing import fastest, in_thread_of_its_own

_logger = logging.getLogger(__name__)

_TOKENS = (1, 2, 4, 8)
_LAYERS = 40  # so many that their weights do not stay in a cache
_CLEARLY = 0.95  # one thread must take at most this share of the time of all


def use_one_thread_for_small_steps(model: Any) -> int:
    """Measure, and let the model's forward passes of few tokens run on one thread of the thread that calls them.

    Args:
        model: Gets a forward hook; the engine's own object, which only the generation thread runs.

    Returns:
        Up to how many tokens; 0 where all threads are always faster, or cannot be directed.
    """
    all_threads = torch.get_num_threads()
    layers = _linear_layers(model)
    if model.device.type != "cpu" or all_threads == 1 or not layers or not can_use_threads():
        return 0
    try:
        limit = in_thread_of_its_own(partial(_measure, layers, model.dtype, all_threads))
    except RuntimeError as error:  # layers of several types, or with inputs of their own
        _logger.debug("Threads cannot be chosen for this model: %s", error)
        return 0
    if limit:
        _logger.info("Steps of at most %d tokens run on one thread, longer ones on %d.", limit, all_threads)
        model.register_forward_pre_hook(
            lambda _, __, kwargs: _set_threads(kwargs, limit, all_threads), with_kwargs=True
        )
    return limit


def _set_threads(kwargs: dict[str, Any], limit: int, all_threads: int) -> None:
    if "cu_seq_lens_q" in kwargs:  # of continuous batching, whose thread is the engine's own
        use_threads(1 if kwargs["input_ids"].shape[-1] <= limit else all_threads)


def _linear_layers(model: Any) -> list[nn.Module]:
    """Dense, packed and quantized ones alike."""
    layers = (module for module in model.modules() if hasattr(module, "in_features"))
    return list(itertools.islice(layers, _LAYERS))


def _measure(layers: list[nn.Module], dtype: torch.dtype, all_threads: int) -> int:
    """The largest of `_TOKENS` up to which one thread is faster."""
    limit = 0
    for tokens in _TOKENS:
        inputs = [torch.randn((1, tokens, int(layer.in_features))).to(dtype) for layer in layers]
        seconds = fastest(
            {
                "one": partial(_run, layers, inputs, 1),
                "all": partial(_run, layers, inputs, all_threads),
            }
        )
        if seconds["one"] > _CLEARLY * seconds["all"]:
            break
        limit = tokens
    return limit


def _run(layers: list[nn.Module], inputs: list[torch.Tensor], threads: int) -> None:
    use_threads(threads)
    for layer, rows in zip(layers, inputs, strict=True):
        layer(rows)
