"""The engines of this package, on the model in torch."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import psutil

from benchmarks.contenders.contender import PATIENCE_S, SHORTEST_CONTEXT, Task, Trace, Watch
from benchmarks.contenders.reads import Reads, reads_of
from benchmarks.loads import Load
from benchmarks.models import byte_level_tokenizer, random_model


def ours(task: Task) -> OurEngine:
    """The engine `transformers`; options are EngineSettings."""
    model = random_model(task.shape, task.device)
    return OurEngine(task, model, "transformers", reads_of(model), task.options)


class OurEngine:
    """An engine of this package, through its public interface; options are EngineSettings."""

    def __init__(self, task: Task, model: Any, engine: str, reads: Reads, settings: dict[str, Any]) -> None:
        """Open it.

        Args:
            task: What for.
            model: What the engine takes.
            engine: A key of ENGINES, which has to run.
            reads: Of a step.
            settings: EngineSettings, over those that fit the load.
        """
        from mlflow_llm_plugins.generation import EngineSettings, open_engine

        defaults = {
            "max_requests_per_batch": task.load.rows,
            "max_context_length": max(SHORTEST_CONTEXT, task.load.longest),
            "request_timeout_s": PATIENCE_S,
        }
        tokenizer = byte_level_tokenizer(task.shape.vocabulary)
        chosen = EngineSettings(**{**defaults, **settings})
        self.reads = reads
        self._engine = open_engine(model, tokenizer, chosen, engine)
        running = self._engine.stats().engine
        if running != engine:
            self._engine.close()
            raise RuntimeError(f"{engine!r} was refused, the engine {running!r} runs")
        self._children = [child.pid for child in psutil.Process().children(recursive=True)]

    def run(self, load: Load, prompts: list[list[int]], watched: Sequence[int]) -> Trace:
        watch = Watch(load, self._children)
        requests = [self._request(load, ids, new) for ids, (_, new) in zip(prompts, load.lengths, strict=True)]
        early = requests[:-1] if load.last_is_late else requests
        streams = [self._engine.submit(request) for request in early]
        readers = [_reader(watch, index, streams[index]) for index in watched if index < len(streams)]
        if load.last_is_late:
            watch.arrival()
            streams.append(self._engine.submit(requests[-1]))
            readers += [_reader(watch, len(early), streams[-1])] if len(early) in watched else []
        for index, stream in enumerate(streams):  # equal requests end in this order
            text = stream.result().text
            watch.end(index)
            if load.schema is not None and not text.startswith("["):
                raise RuntimeError(f"the JSON schema was ignored: the answer begins with {text[:20]!r}")
        for reader in readers:
            reader.join()
        return watch.trace

    def close(self) -> None:
        self._engine.close()

    @staticmethod
    def _request(load: Load, prompt: list[int], new_tokens: int) -> Any:
        from mlflow_llm_plugins.generation import Constraint, GenerationRequest

        form = {} if load.schema is None else {"constraint": Constraint("json_schema", load.schema)}
        eos = () if load.schema is None else None  # a finished form needs the end token
        return GenerationRequest(prompt, max_new_tokens=new_tokens, eos_token_ids=eos, **form, **load.options)


def _reader(watch: Watch, index: int, stream: Any) -> threading.Thread:
    """A running thread that notes each event of a stream."""

    def read() -> None:
        for _ in stream:
            watch.token(index)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread
