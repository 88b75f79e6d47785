"""The child process of the engine `openvino`: the library's continuous batching in a loop that is fed by messages.

The library's `step` holds Python's lock, and an exception out of it leaves a pipeline that can never be used again
(openvino-genai 2026.4.1): in a process of its own it can do neither harm.
"""

from __future__ import annotations

from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_llm_plugins.generation.openvino.generation_config import generation_config
from mlflow_llm_plugins.generation.openvino.library_errors import library_reason
from mlflow_llm_plugins.generation.openvino.messages import (
    End,
    Failed,
    PipelineArguments,
    Ready,
    Refusal,
    Start,
    Step,
    Tokens,
)
from mlflow_llm_plugins.generation.openvino.prover.text_tokenizer import tokenizer_for_grammars
from mlflow_llm_plugins.generation.openvino.telemetry import telemetry_refused

if TYPE_CHECKING:
    from openvino_genai import ContinuousBatchingPipeline

_DEVICE = "CPU"
_CACHE_TOO_SMALL = (
    "the KV cache does not hold its prompt and answer; raise num_blocks or kv_cache_memory, or ask for fewer tokens"
)


def serve(connection: Connection[Any, Any], arguments: PipelineArguments) -> None:
    """Load the model and answer requests until the connection ends; says so and returns when the pipeline breaks."""
    try:
        pipeline = _build(arguments)
        connection.send(Ready(_warm_up(pipeline)))
        PipelineLoop(connection, pipeline, arguments).run()
    except EOFError:
        raise
    except Exception as error:
        connection.send(Failed(_reason(error)))


def _build(arguments: PipelineArguments) -> ContinuousBatchingPipeline:
    with telemetry_refused():
        import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.num_kv_blocks = arguments.num_blocks
    scheduler.cache_size = 0  # whole gigabytes: the blocks count
    scheduler.max_num_seqs = arguments.max_rows
    scheduler.max_num_batched_tokens = arguments.max_batch_tokens
    scheduler.dynamic_split_fuse = True  # without it a prompt longer than a step breaks the pipeline
    scheduler.enable_prefix_caching = arguments.prefix_caching
    # The library's own would have it misread grammars, see `text_tokenizer`.
    tokenizer = tokenizer_for_grammars(Path(arguments.folder))
    if tokenizer is None:
        return openvino_genai.ContinuousBatchingPipeline(
            arguments.folder, scheduler, _DEVICE, dict(arguments.properties)
        )
    return openvino_genai.ContinuousBatchingPipeline(
        arguments.folder, tokenizer, scheduler, _DEVICE, **arguments.properties
    )


def _warm_up(pipeline: ContinuousBatchingPipeline) -> int:
    """Answer once, so that what is wrong with the model shows now; the bytes of the cache, allocated with it."""
    handle = pipeline.add_request(0, _tensor([0]), generation_config({"max_new_tokens": 2, "ignore_eos": True}))
    while pipeline.has_non_finished_requests():
        pipeline.step()
    del handle
    return int(pipeline.get_metrics().kv_cache_size_in_bytes)


class _Row:
    """A request that the library has."""

    __slots__ = ("handle", "prefilling", "wants_logprobs")

    def __init__(self, handle: Any, prompt_tokens: int, wants_logprobs: bool) -> None:
        self.handle = handle
        self.prefilling = prompt_tokens  # 0 from the first token on
        self.wants_logprobs = wants_logprobs


class PipelineLoop:
    """Takes messages between steps, and sends one after each step."""

    def __init__(
        self, connection: Connection[Any, Any], pipeline: ContinuousBatchingPipeline, arguments: PipelineArguments
    ) -> None:
        from openvino_genai import GenerationFinishReason, GenerationStatus

        self._connection = connection
        self._pipeline = pipeline
        self._max_rows = arguments.max_rows
        self._max_batch_tokens = arguments.max_batch_tokens
        self._unfinished = GenerationFinishReason.NONE
        self._stopped = GenerationFinishReason.STOP
        self._running, self._ignored = GenerationStatus.RUNNING, GenerationStatus.IGNORED
        self._waiting: dict[int, Start] = {}  # in order
        self._rows: dict[int, _Row] = {}
        self._refusals: list[Refusal] = []
        self._steps = 0
        self._taken = self._taken_told = 0  # messages

    def run(self) -> None:
        """Until the connection ends."""
        while True:
            self._take_messages()
            self._fill_rows()
            if self._pipeline.has_non_finished_requests():
                self._pipeline.step()
                self._steps += 1
            elif not self._rows and not self._refusals and self._taken == self._taken_told:
                continue
            self._tell(self._read())

    def _take_messages(self) -> None:
        if not self._waiting and not self._pipeline.has_non_finished_requests():
            self._take(self._connection.recv())
        while self._connection.poll():
            self._take(self._connection.recv())

    def _take(self, message: Start | End) -> None:
        self._taken += 1
        if isinstance(message, Start):
            self._waiting[message.request_id] = message
        elif self._waiting.pop(message.request_id, None) is None:
            row = self._rows.pop(message.request_id, None)
            if row is not None:
                row.handle.cancel()  # its blocks are free after the next step

    def _fill_rows(self) -> None:
        """Hand over what the next step can use, and no more: the library looks for a cached beginning only then."""
        prefilling = sum(row.prefilling for row in self._rows.values())
        while self._waiting and len(self._rows) < self._max_rows and prefilling < self._max_batch_tokens:
            start = self._waiting.pop(next(iter(self._waiting)))
            self._add(start)
            prefilling += len(start.prompt_ids)

    def _add(self, start: Start) -> None:
        try:
            config = generation_config(start.fields)
            handle = self._pipeline.add_request(start.request_id, _tensor(start.prompt_ids), config)
        except Exception as error:  # of this request: the pipeline goes on
            self._refusals.append(Refusal(start.request_id, _reason(error)))
            return
        self._rows[start.request_id] = _Row(handle, len(start.prompt_ids), config.logprobs > 0)

    def _read(self) -> list[Tokens]:
        told = []
        idle = not self._pipeline.has_non_finished_requests()
        for request_id, row in list(self._rows.items()):
            tokens = self._read_row(request_id, row)
            if tokens is not None:
                told.append(tokens)
                row.prefilling = 0
            if tokens is not None and tokens.is_last:
                del self._rows[request_id]
            elif idle or row.handle.get_status() != self._running:  # given up, without a finish reason
                del self._rows[request_id]
                self._refusals.append(Refusal(request_id, self._why_given_up(row)))
        return told

    def _read_row(self, request_id: int, row: _Row) -> Tokens | None:
        ids: list[int] = []
        logprobs: list[float] = []
        reason = self._unfinished
        while reason == self._unfinished and row.handle.can_read():  # which stays true after the end
            for output in row.handle.read().values():
                ids += output.generated_ids
                logprobs += output.generated_log_probs
                reason = output.finish_reason
        if not ids and reason == self._unfinished:
            return None
        return Tokens(
            request_id,
            ids,
            logprobs if row.wants_logprobs else None,
            reason != self._unfinished,
            reason == self._stopped,
        )

    def _why_given_up(self, row: _Row) -> str:
        status = row.handle.get_status()
        if status == self._ignored:
            return _CACHE_TOO_SMALL
        return f"the library ended it as {status.name} before its answer was complete"

    def _tell(self, tokens: list[Tokens]) -> None:
        self._connection.send(Step(self._steps, tokens, self._refusals, self._taken))
        self._refusals, self._taken_told = [], self._taken


def _tensor(ids: list[int]) -> Any:
    import numpy as np
    import openvino

    return openvino.Tensor(np.array([ids], dtype=np.int64))


def _reason(error: Exception) -> str:
    name, reason = type(error).__name__, library_reason(error)
    return reason if reason == name else f"{name}: {reason}"
