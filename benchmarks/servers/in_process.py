"""The loads on an engine in this process: `python -m benchmarks.servers.in_process JOB RESULTS`, both JSON files."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.served.loads import NEW_TOKENS, ServedLoad
from mlflow_llm_plugins.generation import GenerationEngine, GenerationRequest
from mlflow_llm_plugins.loadtest import RequestResult
from mlflow_llm_plugins.loadtest.run import send_times

Ask = Callable[[list[int]], RequestResult]


@contextmanager
def opened(artifact: str) -> Iterator[GenerationEngine]:
    """As `mlflow models serve` opens it."""
    import mlflow

    engine: GenerationEngine = mlflow.pyfunc.load_model(artifact).get_raw_model()
    try:
        yield engine
    finally:
        engine.close()


def rendered(engine: GenerationEngine, texts: Sequence[str]) -> list[list[int]]:
    """Token ids, made before the clock starts."""
    chats = [[{"role": "user", "content": text}] for text in texts]
    template = engine.tokenizer.apply_chat_template
    rendered = [template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
    return [engine.tokenizer(text, add_special_tokens=False)["input_ids"] for text in rendered]


def answer(engine: GenerationEngine, prompt: list[int], began: float) -> RequestResult:
    """One request; the engine itself notes when its tokens came."""
    sent = time.perf_counter() - began
    try:
        output = engine.submit(GenerationRequest(prompt, max_new_tokens=NEW_TOKENS, eos_token_ids=())).result()
    except Exception as error:  # as over HTTP: a request that fails is a result
        return RequestResult(sent, time.perf_counter() - began, failure=type(error).__name__)
    times = [sent + seconds for seconds in output.token_times]
    return RequestResult(
        sent_s=sent,
        ended_s=times[-1],
        first_token_s=times[0],
        gaps_s=tuple(after - before for before, after in pairwise(times)),
        prompt_tokens=output.prompt_tokens,
        completion_tokens=output.completion_tokens,
    )


def perform(engine: GenerationEngine, load: ServedLoad, prompts: Sequence[list[int]]) -> dict[str, Any]:
    """What a LoadResult needs."""
    date, began = datetime.now(timezone.utc).isoformat(timespec="seconds"), time.perf_counter()

    def ask(prompt: list[int]) -> RequestResult:
        return answer(engine, prompt, began)

    with ThreadPoolExecutor(load.clients or load.requests) as clients:
        results = closed(clients, ask, prompts) if load.clients else paced(clients, ask, prompts, load, began)
    return {"requests": [asdict(result) for result in results], "date": date}


def closed(clients: ThreadPoolExecutor, ask: Ask, prompts: Sequence[list[int]]) -> list[RequestResult]:
    """Each of the pool's threads is a client."""
    return list(clients.map(ask, prompts))


def paced(
    clients: ThreadPoolExecutor, ask: Ask, prompts: Sequence[list[int]], load: ServedLoad, began: float
) -> list[RequestResult]:
    """At the times at which a server gets them."""
    waiting: list[Future[RequestResult]] = []
    for prompt, due in zip(prompts, send_times(load.as_load(ignore_eos=True)), strict=True):
        time.sleep(max(0.0, began + due - time.perf_counter()))
        waiting.append(clients.submit(ask, prompt))
    return [future.result() for future in waiting]


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    results = []
    with opened(job["artifact"]) as engine:
        for prompt in rendered(engine, job["warm_up"]):
            answer(engine, prompt, 0.0)
        for described in job["loads"]:
            texts = described.pop("texts")
            results.append(perform(engine, ServedLoad(**described), rendered(engine, texts)))
    Path(sys.argv[2]).write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main()
