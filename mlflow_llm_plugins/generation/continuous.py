"""The adapter over transformers' continuous batching: its scheduler and paged cache, our delivery and sampling."""

from __future__ import annotations

import itertools
import logging
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
)
from transformers.generation.continuous_batching.continuous_api import OutputRouter
from transformers.generation.logits_process import LogitsProcessorList

from mlflow_llm_plugins.errors import EngineUnavailableError, GenerationError
from mlflow_llm_plugins.generation.cache_plan import CachePlan
from mlflow_llm_plugins.generation.sampling import SamplingPlan, pick
from mlflow_llm_plugins.generation.settings import EngineSettings
from mlflow_llm_plugins.generation.stream import TokenStream

_logger = logging.getLogger(__name__)

_STOP_S = 30.0  # how long close() waits for the step that is running
_NO_TOKEN = -1  # transformers' own "no such token"


class ContinuousRunner:
    """Runs all open requests as one continuously re-formed batch."""

    name = "transformers"

    def __init__(self, model: Any, settings: EngineSettings, cache: CachePlan) -> None:
        """Allocate the cache and start the generation thread.

        Raises:
            ValueError: The model has layers or an attention that the paged cache cannot serve.
            MemoryError: The cache does not fit.
        """
        self.cache_tokens: int | None = cache.tokens
        self._sinks: dict[str, tuple[TokenStream, SamplingPlan]] = {}
        self._ids: dict[TokenStream, str] = {}
        self._counter = itertools.count()
        self._manager = model.init_continuous_batching(
            generation_config=_generation_config(),
            continuous_batching_config=_batching_config(settings, cache),
        )
        # Both references are copied at warm-up, so they must be in place before it.
        self._manager.output_router = _Router(self._sinks, self._manager)
        self._manager.logit_processor = _processors()
        self._manager.warmup()  # builds the cache in this thread, where its errors can be caught
        # A thread inherits "daemon" from its creator; the library's own would keep the interpreter from exiting.
        starter = threading.Thread(target=self._manager.start, name="llm-engine-start", daemon=True)
        starter.start()
        starter.join()
        self._finalizer = weakref.finalize(self, _stop, self._manager)

    def start(self, stream: TokenStream) -> None:
        """Hand the request to the scheduler."""
        request, plan = stream.request, SamplingPlan.of(stream.request)
        request_id = f"llm-{next(self._counter)}"
        self._sinks[request_id] = (stream, plan)  # before add_request: the first token may come at once
        self._ids[stream] = request_id
        accepted = self._manager.add_request(
            request.prompt_ids,
            request_id=request_id,
            max_new_tokens=request.max_new_tokens,
            streaming=True,
            eos_token_id=sorted(request.eos_token_ids) or _NO_TOKEN,
            plan=plan,
        )
        failure = self.failure()
        if accepted is None or failure is not None:
            stream.fail(EngineUnavailableError(failure or "The engine is stopping."))

    def release(self, stream: TokenStream) -> None:
        """Cancel the request unless the library has finished it; its slot is free within a step."""
        request_id = self._ids.pop(stream, None)
        if request_id is not None and self._sinks.pop(request_id, None) is not None:
            self._manager.cancel_request(request_id)

    def failure(self) -> str | None:
        """Why the generation thread is gone, or None while it runs."""
        if self._manager.is_running():
            return None
        error = self._manager.background_thread_status.fatal_error
        return f"The generation thread died: {error}" if error else "The engine is closed."

    def close(self) -> None:
        """Stop the generation thread after its current step and free the cache."""
        self._finalizer()


class _Router(OutputRouter):
    """Delivers each output to the stream that asked for it; called on the generation thread.

    The library's own handlers need an event loop, mix up the order and die with a closed loop (5.20 to 5.23).
    """

    def __init__(self, sinks: dict[str, tuple[TokenStream, SamplingPlan]], manager: Any) -> None:
        super().__init__()
        self._sinks = sinks
        self._manager = manager

    def deliver(self, output: Any) -> None:
        finished = output.is_finished()
        # A request that the library has finished must not be cancelled any more: forget it first.
        sink = self._sinks.pop(output.request_id, None) if finished else self._sinks.get(output.request_id)
        if sink is None:
            return  # cancelled while the step ran
        stream, plan = sink
        try:
            if plan.error is not None:
                self._forget_pages(output.request_id)
            _push_new_tokens(stream, plan, output.generated_tokens)
            if finished:
                stream.fail(GenerationError(output.error or "The request ended without an answer."))
        except Exception as error:  # a raising sink would end the loop for everybody
            _logger.exception("Delivering a token failed.")
            stream.fail(GenerationError(f"Delivering a token failed: {error}"))

    def deliver_batch(self, outputs: Sequence[Any]) -> None:
        for output in outputs:
            self.deliver(output)

    def _forget_pages(self, request_id: str) -> None:
        """NaN keys and values must not stay in the prefix cache, for the next prompt that begins alike."""
        cache = self._manager.batch_processor.cache
        cache.free_blocks(request_id, no_cache=True)
        cache.evict_cached_blocks()


def _push_new_tokens(stream: TokenStream, plan: SamplingPlan, generated: Sequence[int]) -> None:
    if plan.error is not None:
        stream.fail(plan.error)
        return
    for position in range(stream.received, len(generated)):
        stream.push(generated[position], plan.logprobs[position])


class _Sampler(ContinuousBatchingLogitsProcessor):
    """Picks every row's token and marks it with +inf, which the library's argmax then takes."""

    supported_kwargs = {"plan": SamplingPlan}  # noqa: RUF012
    ignored_kwargs = ()

    def __init__(self) -> None:
        self._plans: list[SamplingPlan] = []

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: Sequence[Any]) -> torch.Tensor:
        self._plans = [request.state.logit_processor_kwargs["plan"] for request in requests_with_new_token]
        return torch.zeros(len(self._plans), dtype=torch.int32)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        """Rows of unfinished prefills lie behind those that get a token, and are left alone."""
        rows = len(self._plans)
        if rows:
            tokens = pick(scores[:rows], self._plans)
            sick = [row for row, plan in enumerate(self._plans) if plan.error is not None]
            scores[sick] = 0.0  # NaN would win the argmax with an arbitrary token
            scores[torch.arange(rows, device=scores.device), tokens] = torch.inf
        return scores


def _processors() -> ContinuousBatchingLogitsProcessorList:
    processors = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([_Sampler()]))
    processors.tensors_required = 1
    return processors


def _generation_config() -> GenerationConfig:
    """Greedy and without ends of its own: every request brings its plan and its end tokens."""
    return GenerationConfig(do_sample=False, max_new_tokens=16, eos_token_id=_NO_TOKEN, pad_token_id=0)


def _batching_config(settings: EngineSettings, cache: CachePlan) -> ContinuousBatchingConfig:
    rows = settings.max_requests_per_batch
    return ContinuousBatchingConfig(
        page_size=cache.page_size,
        num_blocks=cache.num_blocks,
        max_batch_tokens=max(settings.max_batch_tokens, rows),
        max_requests_per_batch=rows,
        max_memory_percent=0.95,  # only a ceiling here: the plan has kept to what is free
        scheduler_type="fifo",  # decode first, so that a long prompt does not stall running answers
        allow_block_sharing=settings.prefix_caching,
        use_async_batching=False,  # both prepare a step before the tokens of the last exist, but sampling
        use_cuda_graph=False,  # here is Python that needs them
        auto_switch_to_flash=False,
    )


def _stop(manager: Any) -> None:
    if manager.is_running():
        manager.stop(block=True, timeout=_STOP_S, hard_stop=True)
    manager.batch_processor = None  # the cache
