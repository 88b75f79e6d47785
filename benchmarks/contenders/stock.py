"""transformers' continuous batching."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any

from benchmarks.contenders.contender import PATIENCE_S, Task, Trace, Watch
from benchmarks.contenders.reads import reads_of
from benchmarks.loads import Load
from benchmarks.models import random_model
from mlflow_llm_plugins.hardware import granted_cpus


class Stock:
    """transformers' continuous batching as it comes; options are fields of its configuration."""

    def __init__(self, task: Task) -> None:
        import torch
        from transformers import ContinuousBatchingConfig

        torch.set_num_threads(granted_cpus())
        rows, page = task.load.rows, 32
        defaults = {
            "page_size": page,
            "num_blocks": math.ceil(rows * (math.ceil(task.load.longest / page) + 1) / 0.85),  # 15% stay free
            "max_batch_tokens": 256,
            "max_requests_per_batch": rows,
            "scheduler_type": "fifo",
            "allow_block_sharing": True,
            "use_async_batching": False,
            "use_cuda_graph": False,
            "auto_switch_to_flash": False,
        }
        model = random_model(task.shape, task.device)
        self.reads = reads_of(model)
        self._manager = model.init_continuous_batching(
            generation_config=_generation_config(task.load),
            continuous_batching_config=ContinuousBatchingConfig(**{**defaults, **task.options}),
        )
        self._router = self._manager.output_router = _router()
        self._manager.warmup()
        self._manager.start()
        self._runs = 0

    def run(self, load: Load, prompts: list[list[int]], watched: Sequence[int]) -> Trace:
        watch, self._runs = Watch(load), self._runs + 1
        done = self._router.follow(watch, [self._id(index) for index in range(len(prompts))])
        for index, (ids, (_, new)) in enumerate(zip(prompts, load.lengths, strict=True)):
            if load.last_is_late and index == len(prompts) - 1:
                watch.arrival()
            self._manager.add_request(ids, request_id=self._id(index), max_new_tokens=new, streaming=True)
        if not done.wait(PATIENCE_S):
            raise TimeoutError(f"The requests are not finished after {PATIENCE_S:.0f} s.")
        if self._router.error:
            raise RuntimeError(self._router.error)
        return watch.trace

    def close(self) -> None:
        self._manager.stop(block=True, timeout=30, hard_stop=True)

    def _id(self, index: int) -> str:
        return f"run-{self._runs}-{index}"


def _generation_config(load: Load) -> Any:
    from transformers import GenerationConfig

    refused = ["constraint"] * (load.schema is not None) + sorted(
        load.options.keys() - {"temperature", "top_p", "top_k"}
    )
    if refused:
        raise NotImplementedError(f"not offered here: {', '.join(refused)}")
    how = {"do_sample": True, "top_k": 0, "top_p": 1.0, **load.options} if load.options else {"do_sample": False}
    return GenerationConfig(max_new_tokens=16, eos_token_id=-1, pad_token_id=0, **how)


def _router() -> Any:
    from transformers.generation.continuous_batching.continuous_api import OutputRouter

    class Router(OutputRouter):
        """Notes when tokens come, on the generation thread."""

        def follow(self, watch: Watch, ids: Sequence[str]) -> threading.Event:
            """Of these requests; the event is set when all are finished."""
            self.watch, self.indexes, self.error = watch, {name: index for index, name in enumerate(ids)}, ""
            self.open, self.done = len(ids), threading.Event()
            return self.done

        def deliver(self, output: Any) -> None:
            index = self.indexes[output.request_id]
            self.watch.token(index)
            if output.is_finished():
                self.watch.end(index)
                self.error = self.error or output.error or ""
                self.open -= 1
                if not self.open:
                    self.done.set()

        def deliver_batch(self, outputs: Sequence[Any]) -> None:
            for output in outputs:
                self.deliver(output)

    return Router()
