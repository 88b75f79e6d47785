"""How many CPU threads a step is divided among, and what they do between operations.

Threads spin while nothing else wants their CPUs, else they sleep. Waking the sleeping ones for each operation can take
longer than their share of the work in a step of few tokens; where that is so is measured on the model's own linear
layers, in a thread like the one that generates.
"""

from __future__ import annotations

import itertools
import logging
from functools import partial
from typing import Any

import torch
from torch import nn

from mlflow_llm_plugins.generation.cpu.openmp import IdleWorkers, can_use_threads, use_threads
from mlflow_llm_plugins.generation.cpu.spinning import Spinning
from mlflow_llm_plugins.generation.cpu.timing import fastest, in_thread_of_its_own

_logger = logging.getLogger(__name__)

_TOKENS = (1, 2, 4, 8)
_LAYERS = 40  # so many that their weights do not stay in a cache
_CLEARLY = 0.95  # one thread must take at most this share of the time of all


class StepThreads:
    """Directs the threads of one model's forward passes; the engine's own model object, run by one thread."""

    def __init__(self, spin: bool | None, device: str) -> None:
        """Threads always spin, always sleep, or (None) spin while they have their CPUs for themselves.

        Until `begin` they sleep unless they always spin, so that a busy machine disturbs no measurement. On a device
        that is not a CPU, threads are left alone.
        """
        spin = spin if device == "cpu" else True
        self._spin = spin
        self._idle_workers = IdleWorkers()
        self._spinning: Spinning | None = None
        self._hooks: list[Any] = []
        if not spin:
            self._idle_workers.start()

    def direct(self, model: Any) -> None:
        """Measure, and decide before each forward pass of this model from now on."""
        threads = torch.get_num_threads()
        if self._spin or threads == 1 or not can_use_threads():
            return
        limit = _one_thread_limit(model)
        if limit:
            _logger.info("While threads sleep, steps of at most %d tokens run on one, not on %d.", limit, threads)
        self._spinning = Spinning(self._idle_workers, threads) if self._spin is None else None
        step = _Step(limit, threads, self._spinning)
        self._hooks += [
            model.register_forward_pre_hook(step.before_forward, with_kwargs=True),
            model.register_forward_hook(step.after_forward),
        ]

    def begin(self) -> None:
        """Look at the machine from now on; to be called when the other threads of the process have no workers."""
        if self._spinning is not None:
            self._spinning.begin()

    def close(self) -> None:
        """Leave the model alone, and no threads behind."""
        for hook in self._hooks:
            hook.remove()
        self._idle_workers.close()


class _Step:
    """The hooks around a forward pass."""

    def __init__(self, limit: int, threads: int, spinning: Spinning | None) -> None:
        self._limit = limit
        self._threads = threads
        self._spinning = spinning

    def before_forward(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        spins = self._spinning is not None and self._spinning.before_step()
        if self._limit:
            ids = kwargs.get("input_ids")
            few = ids is not None and ids.numel() <= self._limit
            use_threads(1 if few and not spins else self._threads)

    def after_forward(self, model: Any, args: tuple[Any, ...], output: Any) -> None:
        if self._spinning is not None:
            self._spinning.after_step()


def _one_thread_limit(model: Any) -> int:
    """Up to how many tokens one thread is faster than several that sleep; 0 where it never is."""
    layers = _linear_layers(model)
    if not layers:
        return 0
    try:
        return in_thread_of_its_own(partial(_measure, layers, model.dtype, torch.get_num_threads()))
    except RuntimeError as error:  # layers of several types, or with inputs of their own
        _logger.debug("Threads cannot be chosen for this model: %s", error)
        return 0


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
