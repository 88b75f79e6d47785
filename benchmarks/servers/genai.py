"""OpenVINO GenAI called directly on the model of one of our artifacts: no engine, no child process, no HTTP.

One thread adds requests, steps and reads tokens, with nothing between the library and the clock: what its
pipeline gives at its defaults on this machine.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.served.loads import NEW_TOKENS
from benchmarks.servers.our_engine import timed
from mlflow_llm_plugins.hardware import granted_cpus
from mlflow_llm_plugins.loadtest import RequestResult

BLOCK_TOKENS = 32  # of a block of the pipeline's cache on CPUs


@contextmanager
def opened_genai(artifact: str, rows: int, longest: int) -> Iterator[Genai]:
    """With the library's defaults, but for threads and a cache that fits."""
    from mlflow_llm_plugins.quantized_llm.artifact import Artifact
    from mlflow_llm_plugins.quantized_llm.file_tokenizer import load_file_tokenizer

    folder = Artifact.open(Path(artifact)).weights_folder()
    yield Genai(
        _pipeline(folder, rows * (math.ceil(longest / BLOCK_TOKENS) + 1)),
        load_file_tokenizer(folder, name=str(folder)),
    )


def _pipeline(folder: Path, blocks: int) -> Any:
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = 0  # whole gigabytes: the blocks count
    scheduler.num_kv_blocks = blocks
    threads = {"INFERENCE_NUM_THREADS": granted_cpus()}
    return openvino_genai.ContinuousBatchingPipeline(str(folder), scheduler, "CPU", threads)


class Genai:
    """The pipeline, stepped here."""

    def __init__(self, pipeline: Any, tokenizer: Any) -> None:
        self._pipeline, self.tokenizer = pipeline, tokenizer
        self._requests = 0

    def closed(self, prompts: Sequence[list[int]], clients: int) -> list[RequestResult]:
        return self._answer(prompts, [0.0] * len(prompts), clients)

    def paced(self, prompts: Sequence[list[int]], due_s: Sequence[float]) -> list[RequestResult]:
        return self._answer(prompts, due_s, len(prompts))

    def _answer(self, prompts: Sequence[list[int]], due_s: Sequence[float], most: int) -> list[RequestResult]:
        waiting = deque(zip(prompts, due_s, strict=True))
        rows: list[_Row] = []
        results: list[RequestResult] = []
        began = time.perf_counter()
        while waiting or rows:
            while waiting and len(rows) < most and waiting[0][1] <= time.perf_counter() - began:
                rows.append(self._added(waiting.popleft()[0], began))
            if not rows:
                time.sleep(max(0.0, began + waiting[0][1] - time.perf_counter()))
                continue
            self._pipeline.step()
            results += [row.result() for row in rows if row.read(time.perf_counter() - began)]
            rows = [row for row in rows if not row.is_finished]
        return results

    def _added(self, prompt: list[int], began: float) -> _Row:
        import numpy as np
        import openvino
        import openvino_genai

        config = openvino_genai.GenerationConfig(max_new_tokens=NEW_TOKENS, ignore_eos=True, do_sample=False)
        self._requests += 1
        ids = openvino.Tensor(np.array([prompt], dtype=np.int64))
        sent = time.perf_counter() - began
        return _Row(self._pipeline.add_request(self._requests, ids, config), sent, len(prompt))


class _Row:
    """A request that the pipeline has."""

    def __init__(self, handle: Any, sent_s: float, prompt_tokens: int) -> None:
        self._handle, self._sent_s, self._prompt_tokens = handle, sent_s, prompt_tokens
        self._token_times: list[float] = []

    @property
    def is_finished(self) -> bool:
        return len(self._token_times) >= NEW_TOKENS

    def read(self, now_s: float) -> bool:
        """Note the tokens of the last step; whether that were the last ones."""
        while not self.is_finished and self._handle.can_read():  # which stays true after the end
            for output in self._handle.read().values():
                self._token_times += [now_s] * len(output.generated_ids)
        return self.is_finished

    def result(self) -> RequestResult:
        return timed(self._sent_s, self._token_times, self._prompt_tokens)
