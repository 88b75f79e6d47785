"""vLLM, where it is installed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from benchmarks.contenders.contender import LATE_AFTER, SHORTEST_CONTEXT, Task, Trace, Watch
from benchmarks.loads import Load
from benchmarks.models import save_checkpoint


class Vllm:
    """vLLM's offline engine, stepped by hand in this process; options are arguments of `vllm.LLM`."""

    reads = None  # its weights may be packed in another way than ours

    def __init__(self, task: Task) -> None:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # read at import; else its CPU time is another process's
        checkpoint = save_checkpoint(task.shape, task.device, task.folder / "checkpoint")
        import vllm

        defaults = {
            "dtype": "bfloat16" if task.device == "cuda" else "float32",
            "max_model_len": max(SHORTEST_CONTEXT, task.load.longest),
            "max_num_seqs": task.load.rows,
            "quantization": "bitsandbytes" if task.shape.quantization else None,
        }
        self._vllm = vllm
        self._engine = vllm.LLM(model=str(checkpoint), **{**defaults, **task.options}).llm_engine
        self._runs = 0

    def run(self, load: Load, prompts: list[list[int]], watched: Sequence[int]) -> Trace:
        watch, self._runs = Watch(load), self._runs + 1
        late = [len(prompts) - 1] if load.last_is_late else []
        for index in range(len(prompts) - len(late)):
            self._add(load, prompts, index)
        seen = [0] * len(prompts)
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                self._note(watch, seen, output)
            if late and min(seen[:-1]) >= LATE_AFTER:
                watch.arrival()
                self._add(load, prompts, late.pop())
        return watch.trace

    def _add(self, load: Load, prompts: list[list[int]], index: int) -> None:
        if load.schema is not None:
            raise NotImplementedError("constraints are measured on transformers alone")
        how = {"temperature": 0.0, **load.options}
        params = self._vllm.SamplingParams(max_tokens=load.lengths[index][1], ignore_eos=True, **how)
        self._engine.add_request(f"{self._runs}-{index}", {"prompt_token_ids": prompts[index]}, params)

    @staticmethod
    def _note(watch: Watch, seen: list[int], output: Any) -> None:
        index = int(output.request_id.split("-")[1])
        for _ in range(len(output.outputs[0].token_ids) - seen[index]):
            watch.token(index)
        seen[index] = len(output.outputs[0].token_ids)
        if output.finished:
            watch.end(index)

    def close(self) -> None:
        pass
