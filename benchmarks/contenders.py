"""The engines under test: each is opened for one load, runs it, and tells when its tokens came.

To add one: a class with `run` and `close`, and a row in `CONTENDERS`. Everything heavy is imported when it is opened.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from benchmarks.loads import BATCH_ROWS, Load
from benchmarks.models import Shape, byte_level_tokenizer, random_model, save_checkpoint
from mlflow_llm_plugins.hardware import granted_cpus

LATE_AFTER = 20  # tokens of every other stream
PATIENCE_S = 1800.0  # whoever runs us has a shorter deadline
_SHORTEST_CONTEXT = 512  # the engine's own check at load needs some room


class Tick(NamedTuple):
    """A moment: wall clock and CPU time of the process, seconds."""

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> Tick:
        return cls(time.perf_counter(), time.process_time())


@dataclass
class Trace:
    """What happened when, a list entry for each request; an engine may leave out tokens that nobody watches."""

    tokens: list[list[Tick]]
    ends: list[Tick | None]
    started: Tick = field(default_factory=Tick.now)
    arrived: Tick | None = None  # the late request

    @classmethod
    def of(cls, load: Load) -> Trace:
        return cls([[] for _ in load.lengths], [None] * len(load.lengths))


@dataclass(frozen=True)
class Task:
    """What a contender is opened for."""

    shape: Shape
    device: str
    load: Load
    options: dict[str, Any]  # of the contender
    folder: Path  # its own, for files


class Contender(Protocol):
    def run(self, load: Load, prompts: list[list[int]], watched: Sequence[int]) -> Trace:
        """Do all of the load and time at least the tokens of the watched requests."""

    def close(self) -> None: ...


class Watch:
    """Notes tokens and ends, from any thread."""

    def __init__(self, load: Load) -> None:
        self.trace = Trace.of(load)
        self._decoding = threading.Semaphore(0)
        self._others = len(load.lengths) - 1

    def token(self, index: int) -> None:
        ticks = self.trace.tokens[index]
        ticks.append(Tick.now())
        if len(ticks) == LATE_AFTER:
            self._decoding.release()

    def end(self, index: int) -> None:
        self.trace.ends[index] = Tick.now()

    def arrival(self) -> None:
        """Wait until all other requests decode, and note the time."""
        deadline = time.monotonic() + PATIENCE_S
        for _ in range(self._others):
            if not self._decoding.acquire(timeout=max(0.0, deadline - time.monotonic())):
                raise TimeoutError(f"The streams have no {LATE_AFTER} tokens after {PATIENCE_S:.0f} s.")
        self.trace.arrived = Tick.now()


class Ours:
    """The engine of this package, through its public interface; options are EngineSettings."""

    def __init__(self, task: Task) -> None:
        from mlflow_llm_plugins.generation import EngineSettings, open_engine

        defaults = {
            "max_requests_per_batch": task.load.rows,
            "max_context_length": max(_SHORTEST_CONTEXT, task.load.longest),
            "request_timeout_s": PATIENCE_S,
        }
        settings = EngineSettings(**{**defaults, **task.options})
        tokenizer = byte_level_tokenizer(task.shape.vocabulary)
        self._engine = open_engine(random_model(task.shape, task.device), tokenizer, settings)
        running = self._engine.stats().engine
        if running != "transformers":
            raise RuntimeError(f"continuous batching was refused, the engine {running!r} runs")

    def run(self, load: Load, prompts: list[list[int]], watched: Sequence[int]) -> Trace:
        watch = Watch(load)
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


class Generate:
    """`model.generate` in padded batches, one after the other; the option `batch` is their size."""

    def __init__(self, task: Task) -> None:
        import torch

        torch.set_num_threads(granted_cpus())
        self._model = random_model(task.shape, task.device)
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


class Vllm:
    """vLLM's offline engine, stepped by hand in this process; options are arguments of `vllm.LLM`."""

    def __init__(self, task: Task) -> None:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # read at import; else its CPU time is another process's
        checkpoint = save_checkpoint(task.shape, task.device, task.folder / "checkpoint")
        import vllm

        defaults = {
            "dtype": "bfloat16" if task.device == "cuda" else "float32",
            "max_model_len": max(_SHORTEST_CONTEXT, task.load.longest),
            "max_num_seqs": task.load.rows,
            "quantization": "bitsandbytes" if task.shape.nf4 else None,
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


CONTENDERS: dict[str, Callable[[Task], Contender]] = {
    "ours": Ours,
    "stock": Stock,
    "generate": Generate,
    "vllm": Vllm,
}
