"""The adapter over transformers' continuous batching: its scheduler and paged cache, our delivery and sampling."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
)
from transformers.generation.continuous_batching.continuous_api import OutputRouter
from transformers.generation.logits_process import LogitsProcessorList

from mlflow_llm_plugins.errors import EngineLostError, EngineUnavailableError, GenerationError
from mlflow_llm_plugins.generation.cache_plan import CachePlan
from mlflow_llm_plugins.generation.cpu.attention import use_per_request_attention
from mlflow_llm_plugins.generation.cpu.mapped_zeros import MappedZeros
from mlflow_llm_plugins.generation.failures import described, explained
from mlflow_llm_plugins.generation.sampling.plan import SamplingPlan, pick
from mlflow_llm_plugins.generation.settings import EngineSettings
from mlflow_llm_plugins.generation.shared_prefills import SharedPrefills
from mlflow_llm_plugins.generation.stream import TokenStream

_logger = logging.getLogger(__name__)

_STOP_S = 30.0  # how long close() waits for the step that is running
USABLE_PAGES = 0.85  # the scheduler keeps 15% of the pages free (transformers' fifo safety margin)
_BATCH_TOKENS = 256  # of a step, where nothing is set
_NO_TOKEN = -1  # transformers' own "no such token"


def batch_tokens(settings: EngineSettings) -> int:
    """Tokens of one step."""
    return settings.max_batch_tokens or _BATCH_TOKENS


class ContinuousRunner:
    """Runs all open requests as one continuously re-formed batch."""

    name = "transformers"
    what = "generation thread"

    def __init__(self, model: Any, settings: EngineSettings, cache: CachePlan, *, per_request_attention: bool) -> None:
        """Allocate the cache and start the generation thread.

        Raises:
            ValueError: The model has layers or an attention that the paged cache cannot serve.
            MemoryError: The cache does not fit.
        """
        self.cache_tokens: int | None = cache.tokens
        self.disturbed = threading.Event()
        self._requests: dict[str, _Running] = {}
        self._ids: dict[TokenStream, str] = {}
        self._counter = itertools.count()
        self._manager = model.init_continuous_batching(
            generation_config=_generation_config(),
            continuous_batching_config=_batching_config(settings, cache),
        )
        # All three are copied or looked at when the cache is built, so they must be in place before it.
        self._restore_attention = use_per_request_attention(model) if per_request_attention else _nothing
        self._prefills = SharedPrefills(self._add, settings.page_size if settings.prefix_caching else None)
        self._manager.output_router = _Router(self._requests, self._manager, self.disturbed, self._prefills)
        self._manager.logit_processor = _processors()
        try:
            with MappedZeros():
                self._manager.warmup()  # builds the cache in this thread, where its errors can be caught
            self._count_prefix_hits()
        except BaseException:
            self._restore_attention()
            raise
        self._start_thread()

    @property
    def steps(self) -> int:
        """Steps that the loop has finished; it stands still while one does not return."""
        return getattr(self._manager, "current_batch", 0)

    def start(self, stream: TokenStream) -> None:
        """Hand the request to the scheduler, or let it wait for the same prompt of another one."""
        self._prefills.start(stream)

    def release(self, stream: TokenStream) -> None:
        """Cancel the request unless the library has finished it; its slot is free within a step."""
        request_id = self._ids.pop(stream, None)
        if request_id is not None and self._requests.pop(request_id, None) is not None:
            self._manager.cancel_request(request_id)
        self._prefills.settle(stream)

    @property
    def owes_a_step(self) -> bool:
        """Not known: no open request, no step."""
        return False

    def abandon_step(self) -> None:
        """Nothing can be done: no thread can be ended from outside."""

    def is_alive(self) -> bool:
        """Whether the generation thread runs."""
        return bool(self._manager.is_running())

    def death(self) -> str:
        """The error that ended the generation thread."""
        error = self._manager.background_thread_status.fatal_error
        return described(error) if error else ""

    def restart(self) -> None:
        """Start the generation thread again, with an empty cache; what waits in the library's queue is served."""
        self._start_thread()

    def begin_close(self) -> None:
        """Nothing to do: a thread starts at once."""

    def close(self) -> None:
        """Stop the generation thread after its current step and free the cache."""
        if self._manager._generation_thread is not None:
            # also where it is dead, since stopping gives the model its attention back; and called on that thread
            # itself where it held the last reference to an engine that nobody wants any more
            is_own = threading.current_thread() is self._manager._generation_thread
            self._manager.stop(block=not is_own, timeout=_STOP_S, hard_stop=True)
        self._manager.batch_processor = None  # the cache
        self._restore_attention()

    def _add(self, stream: TokenStream) -> None:
        request, plan = stream.request, SamplingPlan.of(stream.request)
        request_id = f"llm-{next(self._counter)}"
        self._requests[request_id] = _Running(stream, plan)  # before add_request: the first token may come at once
        self._ids[stream] = request_id
        accepted = self._manager.add_request(
            request.prompt_ids,
            request_id=request_id,
            max_new_tokens=request.max_new_tokens,
            streaming=True,
            eos_token_id=sorted(request.eos_token_ids) or _NO_TOKEN,
            plan=plan,
        )
        if accepted is None:
            stream.fail(EngineUnavailableError("The engine takes no requests now. Try again later."))
            self.disturbed.set()
        if stream.ended:  # while it was added: a cancellation that came first was not of a known request
            self._ids.pop(stream, None)
            self._requests.pop(request_id, None)
            self._manager.cancel_request(request_id)

    def _count_prefix_hits(self) -> None:
        """Note what the cache finds of a prompt; the library tells nobody (5.20 to 5.23)."""
        cache, requests = self._manager.batch_processor.cache, self._requests
        search = cache.search_prefix_match

        def search_and_note(request_id: str, prompt_ids: list[int]) -> int:
            found: int = search(request_id, prompt_ids)
            request = requests.get(request_id)
            if request is not None and not request.stream.received:  # not one that was evicted and comes again
                request.stream.cached_tokens = found
            return found

        cache.search_prefix_match = search_and_note

    def _start_thread(self) -> None:
        # A thread inherits "daemon" from its creator; the library's own would keep the interpreter from exiting.
        starter = threading.Thread(target=self._manager.start, name="llm-engine-start", daemon=True)
        starter.start()
        starter.join(_STOP_S)


def _nothing() -> None:
    """The attention stays as it is."""


@dataclass(frozen=True, slots=True)
class _Running:
    """A request that the library has."""

    stream: TokenStream
    plan: SamplingPlan


class _Router(OutputRouter):
    """Delivers each output to the stream that asked for it; called on the generation thread.

    The library's own handlers need an event loop, mix up the order and die with a closed loop (5.20 to 5.23).
    """

    def __init__(
        self, requests: dict[str, _Running], manager: Any, disturbed: threading.Event, prefills: SharedPrefills
    ) -> None:
        super().__init__()
        self._requests = requests
        self._manager = manager
        self._disturbed = disturbed
        self._prefills = prefills

    def deliver(self, output: Any) -> None:
        finished = output.is_finished()
        # A request that the library has finished must not be cancelled any more: forget it first.
        request = self._requests.pop(output.request_id, None) if finished else self._requests.get(output.request_id)
        if request is None:
            return  # cancelled while the step ran
        stream = request.stream
        try:
            if request.plan.error is not None:
                self._forget_pages(output.request_id)
            _push_new_tokens(request, output.generated_tokens)
            if finished and not stream.ended:  # the library fails a request only when its loop ends
                reason = explained(str(output.error))
                stream.fail(EngineLostError(f"The generation thread died: {reason}. Try again."))
                self._disturbed.set()
            self._prefills.settle(stream)
        except Exception as error:  # a raising sink would end the loop for everybody
            _logger.exception("Delivering a token failed.")
            stream.fail(GenerationError(f"Delivering a token failed: {type(error).__name__}: {error}"))

    def deliver_batch(self, outputs: Sequence[Any]) -> None:
        for output in outputs:
            self.deliver(output)

    def _forget_pages(self, request_id: str) -> None:
        """NaN keys and values must not stay in the prefix cache, for the next prompt that begins alike."""
        cache = self._manager.batch_processor.cache
        cache.free_blocks(request_id, no_cache=True)
        cache.evict_cached_blocks()


def _push_new_tokens(request: _Running, generated: Sequence[int]) -> None:
    if request.plan.error is not None:
        request.stream.fail(request.plan.error)
        return
    for position in range(request.stream.received, len(generated)):
        request.stream.push(request.plan.picks[position])


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
            if sick:
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
        max_batch_tokens=max(batch_tokens(settings), rows),
        max_requests_per_batch=rows,
        max_memory_percent=0.95,  # only a ceiling here: the plan has kept to what is free
        scheduler_type="fifo",  # decode first, so that a long prompt does not stall running answers
        allow_block_sharing=settings.prefix_caching,
        use_async_batching=False,  # both prepare a step before the tokens of the last exist, but sampling
        use_cuda_graph=False,  # here is Python that needs them
        auto_switch_to_flash=False,
    )
