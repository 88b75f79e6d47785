"""The loads on an engine in this process: `python -m benchmarks.servers.in_process JOB RESULTS`, both JSON files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

from benchmarks.served.loads import Chat, ServedLoad
from benchmarks.servers.genai import opened_genai
from benchmarks.servers.our_engine import opened_ours
from mlflow_llm_plugins.loadtest import RequestResult
from mlflow_llm_plugins.loadtest.run import send_times


class Asked(Protocol):
    """An engine that is open."""

    @property
    def tokenizer(self) -> Any: ...

    def closed(self, prompts: Sequence[list[int]], clients: int) -> list[RequestResult]:
        """Answer all, so many at a time."""

    def paced(self, prompts: Sequence[list[int]], due_s: Sequence[float]) -> list[RequestResult]:
        """Answer each, sent so many seconds after the start."""


ENGINES: dict[str, Callable[[str, int, int], AbstractContextManager[Asked]]] = {
    "ours": opened_ours,
    "genai": opened_genai,
}


def rendered(tokenizer: Any, chats: Sequence[Chat]) -> list[list[int]]:
    """Token ids, made before the clock starts."""
    texts = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


def perform(engine: Asked, load: ServedLoad, prompts: Sequence[list[int]]) -> dict[str, Any]:
    """What a LoadResult needs."""
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    if load.clients:
        results = engine.closed(prompts, load.clients)
    else:
        results = engine.paced(prompts, send_times(load.as_load(ignore_eos=True)))
    return {"requests": [asdict(result) for result in results], "date": date}


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    results = []
    with ENGINES[job["engine"]](job["artifact"], job["rows"], job["longest"]) as engine:
        engine.closed(rendered(engine.tokenizer, job["warm_up"]), clients=1)
        for described in job["loads"]:
            chats = described.pop("chats")
            results.append(perform(engine, ServedLoad(**described), rendered(engine.tokenizer, chats)))
    Path(sys.argv[2]).write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main()
