"""transformers' `generate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.contenders.contender import Task, Trace, Watch
from benchmarks.contenders.reads import reads_of
from benchmarks.loads import BATCH_ROWS, Load
from benchmarks.models import random_model
from mlflow_llm_plugins.hardware import granted_cpus


class Generate:
    """`model.generate` in padded batches, one after the other; the option `batch` is their size."""

    def __init__(self, task: Task) -> None:
        import torch

        torch.set_num_threads(granted_cpus())
        self._model = random_model(task.shape, task.device)
        self.reads = reads_of(self._model)
        self._model.generation_config.eos_token_id = None  # else it would fill in for None below
        self._batch = task.options.get("batch", min(task.load.rows, BATCH_ROWS))

    def run(self, load: Load, prompts: list[list[int]], watched: Sequence[int]) -> Trace:
        if load.last_is_late or load.options or load.schema:
            raise NotImplementedError("padded batches are measured with plain requests that arrive together")
        watch = Watch(load)
        for first in range(0, len(prompts), self._batch):
            indexes = range(first, min(first + self._batch, len(prompts)))
            self._generate(watch, indexes, [prompts[i] for i in indexes], [load.lengths[i][1] for i in indexes])
        return watch.trace

    def _generate(self, watch: Watch, indexes: Sequence[int], prompts: list[list[int]], new: list[int]) -> None:
        import torch
        from transformers import GenerationConfig

        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])  # [rows, width]
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        device = self._model.device
        with torch.inference_mode():
            made = self._model.generate(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                generation_config=GenerationConfig(do_sample=False, max_new_tokens=max(new), pad_token_id=0),
                stopping_criteria=[_clock(watch, indexes)],
            )
        if made.shape[1] != width + max(new):
            raise RuntimeError(f"generate made {made.shape[1] - width} tokens instead of {max(new)}")
        for index in indexes:
            watch.end(index)

    def close(self) -> None:
        pass


def _clock(watch: Watch, indexes: Sequence[int]) -> Any:
    """A stopping criterion that stops nothing: it is called once a step."""
    import torch

    def tick(input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        for index in indexes:
            watch.token(index)
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)

    return tick
