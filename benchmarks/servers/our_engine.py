"""The engine of an artifact of ours, asked by threads as the server's handlers ask it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from benchmarks.served.loads import NEW_TOKENS
from mlflow_llm_plugins.generation import GenerationEngine, GenerationRequest
from mlflow_llm_plugins.loadtest import RequestResult


@contextmanager
def opened_ours(artifact: str, rows: int, longest: int) -> Iterator[OurEngine]:
    """As `mlflow models serve` opens it; it has room for its own number and length of rows."""
    import mlflow

    engine: GenerationEngine = mlflow.pyfunc.load_model(artifact).get_raw_model()
    try:
        yield OurEngine(engine)
    finally:
        engine.close()


class OurEngine:
    """Each client is a thread."""

    def __init__(self, engine: GenerationEngine) -> None:
        self._engine = engine

    @property
    def tokenizer(self) -> Any:
        return self._engine.tokenizer

    def closed(self, prompts: Sequence[list[int]], clients: int) -> list[RequestResult]:
        began = time.perf_counter()
        with ThreadPoolExecutor(clients) as threads:
            return list(threads.map(lambda prompt: self._answer(prompt, began), prompts))

    def paced(self, prompts: Sequence[list[int]], due_s: Sequence[float]) -> list[RequestResult]:
        waiting: list[Future[RequestResult]] = []
        began = time.perf_counter()
        with ThreadPoolExecutor(len(prompts)) as threads:
            for prompt, due in zip(prompts, due_s, strict=True):
                time.sleep(max(0.0, began + due - time.perf_counter()))
                waiting.append(threads.submit(self._answer, prompt, began))
            return [future.result() for future in waiting]

    def _answer(self, prompt: list[int], began: float) -> RequestResult:
        """One request; the engine itself notes when its tokens came."""
        sent = time.perf_counter() - began
        request = GenerationRequest(prompt, max_new_tokens=NEW_TOKENS, eos_token_ids=())
        try:
            output = self._engine.submit(request).result()
        except Exception as error:  # as over HTTP: a request that fails is a result
            return RequestResult(sent, time.perf_counter() - began, failure=type(error).__name__)
        times = [sent + seconds for seconds in output.token_times]
        return timed(sent, times, output.prompt_tokens)


def timed(sent_s: float, token_times_s: Sequence[float], prompt_tokens: int) -> RequestResult:
    """The result of a request whose tokens came then; all seconds after the start."""
    return RequestResult(
        sent_s=sent_s,
        ended_s=token_times_s[-1],
        first_token_s=token_times_s[0],
        gaps_s=tuple(after - before for before, after in pairwise(token_times_s)),
        prompt_tokens=prompt_tokens,
        completion_tokens=len(token_times_s),
    )
