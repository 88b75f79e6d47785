"""The runner for any causal model: waiting requests are taken in groups through transformers' `generate`.

A group runs until its last answer ends; requests that come meanwhile wait for the next group.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation.logits_process import LogitsProcessor, LogitsProcessorList
from transformers.generation.stopping_criteria import StoppingCriteria, StoppingCriteriaList

from mlflow_llm_plugins.errors import GenerationError
from mlflow_llm_plugins.generation.architecture import input_device
from mlflow_llm_plugins.generation.failures import explained
from mlflow_llm_plugins.generation.sampling.plan import SamplingPlan, pick
from mlflow_llm_plugins.generation.settings import EngineSettings
from mlflow_llm_plugins.generation.stream import TokenStream

_logger = logging.getLogger(__name__)

_CLOSE_S = 30.0  # how long close() waits for the step that is running
_PAD = 0


class PaddedRunner:
    """Groups of left-padded prompts on one thread."""

    name = "generate"
    what = "generation thread"
    cache_tokens: int | None = None

    def __init__(self, model: Any, settings: EngineSettings, max_context_length: int) -> None:
        """Start the thread; nothing is allocated ahead."""
        # generate() fills what a request leaves open from here: a checkpoint's own defaults must not slip in.
        model.generation_config = GenerationConfig()
        self.disturbed = threading.Event()
        self._waiting: queue.SimpleQueue[TokenStream | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._loop = _Loop(
            model, settings.max_requests_per_batch, max_context_length, self._waiting, self._closing, self.disturbed
        )
        self._start_thread()

    @property
    def steps(self) -> int:
        """Tokens that groups have got; stands still while a step does not return."""
        return self._loop.steps

    def start(self, stream: TokenStream) -> None:
        """Put the request into the next group."""
        self._waiting.put(stream)

    def release(self, stream: TokenStream) -> None:
        """Nothing to do: an ended stream leaves its group at the next step."""

    @property
    def owes_a_step(self) -> bool:
        """Not known: no open request, no step."""
        return False

    def abandon_step(self) -> None:
        """Nothing can be done: no thread can be ended from outside."""

    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def death(self) -> str:
        """The error that ended the thread."""
        return self._loop.death

    def restart(self) -> None:
        """Start a thread in place of the one that died."""
        self._start_thread()

    def begin_close(self) -> None:
        """Nothing to do: a thread starts at once."""

    def close(self) -> None:
        """End the running group at its next step, and the thread."""
        self._closing.set()
        self._waiting.put(None)  # wakes the thread
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=_CLOSE_S)

    def _start_thread(self) -> None:
        self._thread = threading.Thread(target=self._loop.run, name="llm-engine", daemon=True)
        self._thread.start()


class _Loop:
    """The thread's work."""

    def __init__(
        self,
        model: Any,
        max_rows: int,
        max_context_length: int,
        waiting: queue.SimpleQueue[TokenStream | None],
        closing: threading.Event,
        disturbed: threading.Event,
    ) -> None:
        self.steps = 0
        self.death = ""
        self._disturbed = disturbed
        self._model = model
        self._max_rows = max_rows
        self._max_context_length = max_context_length
        self._waiting = waiting
        self._closing = closing
        # Padding runs through a recurrent state, so such models only get rows of one length.
        self._pads = not getattr(model, "_is_stateful", False)
        self._put_back: list[TokenStream] = []

    def run(self) -> None:
        try:
            while not self._closing.is_set():
                self._generate_next_group()
        except BaseException as error:
            self.death = f"{type(error).__name__}: {error}"
            raise
        finally:
            self._disturbed.set()

    def _count_step(self) -> None:
        self.steps += 1

    def _generate_next_group(self) -> None:
        group = self._next_group()
        if not group:
            return
        try:
            self._count_step()
            planned = [(stream, plan) for stream in group if (plan := _plan(stream)) is not None]
            if planned:
                _Group(self._model, planned, self._closing, self._count_step).generate()
        except Exception as error:
            _logger.exception("Generating a group of %d requests failed.", len(group))
            for stream in group:
                stream.fail(GenerationError(f"Generation failed: {explained(str(error))}"))

    def _next_group(self) -> list[TokenStream]:
        """Wait for a request, then take what else is there, up to the batch size; ended ones are dropped."""
        waiting: list[TokenStream | None] = [*self._put_back] or [self._waiting.get()]
        while not self._waiting.empty():
            waiting.append(self._waiting.get())
        streams = [stream for stream in waiting if stream is not None and not stream.ended]
        group: list[TokenStream] = []
        for stream in streams:
            if len(group) < self._max_rows and self._fits([*group, stream]):
                group.append(stream)
        self._put_back = [stream for stream in streams if stream not in group]
        return group

    def _fits(self, group: Sequence[TokenStream]) -> bool:
        """Whether they can run together: a row that has ended goes on as padding until the last one ends."""
        lengths = {len(stream.request.prompt_ids) for stream in group}
        longest = max(lengths) + max(stream.request.max_new_tokens for stream in group)
        return (self._pads or len(lengths) == 1) and longest <= self._max_context_length


def _plan(stream: TokenStream) -> SamplingPlan | None:
    """How the request picks its tokens; one that cannot be planned fails alone."""
    try:
        return SamplingPlan.of(stream.request)
    except Exception as error:
        _logger.exception("Starting a request failed.")
        stream.fail(GenerationError(f"The request could not be started: {type(error).__name__}: {error}"))
        return None


class _Group:
    """One call of `generate`: sampling as its logits processor, delivery as its stopping criterion."""

    def __init__(
        self,
        model: Any,
        planned: Sequence[tuple[TokenStream, SamplingPlan]],
        closing: threading.Event,
        on_step: Callable[[], None],
    ) -> None:
        self._model = model
        self._streams = [stream for stream, _ in planned]
        self._on_step = on_step
        self._plans = [plan for _, plan in planned]
        self._closing = closing

    def generate(self) -> None:
        ids, mask = _left_pad([stream.request.prompt_ids for stream in self._streams])
        with torch.no_grad():
            self._model.generate(
                input_ids=ids.to(input_device(self._model)),
                attention_mask=mask.to(input_device(self._model)),
                generation_config=GenerationConfig(
                    do_sample=False,
                    max_new_tokens=max(stream.request.max_new_tokens for stream in self._streams),
                    pad_token_id=_PAD,
                ),
                logits_processor=LogitsProcessorList([_Pick(self._plans)]),
                stopping_criteria=StoppingCriteriaList(
                    [_Deliver(self._streams, self._plans, self._closing, self._on_step)]
                ),
            )


class _Pick(LogitsProcessor):
    """Marks the token that each row's plan picks with +inf, for the library's argmax."""

    def __init__(self, plans: Sequence[SamplingPlan]) -> None:
        self._plans = plans

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        tokens = pick(scores.float(), self._plans)
        marked = torch.zeros_like(scores)
        marked[torch.arange(len(self._plans), device=scores.device), tokens] = torch.inf
        return marked


class _Deliver(StoppingCriteria):
    """Pushes each row's new token into its stream, and says which rows are done."""

    def __init__(
        self,
        streams: Sequence[TokenStream],
        plans: Sequence[SamplingPlan],
        closing: threading.Event,
        on_step: Callable[[], None],
    ) -> None:
        self._streams = streams
        self._plans = plans
        self._closing = closing
        self._on_step = on_step

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        self._on_step()
        for stream, plan in zip(self._streams, self._plans, strict=True):
            self._deliver(stream, plan)
        done = [stream.ended or self._closing.is_set() for stream in self._streams]
        return torch.tensor(done, device=input_ids.device)

    def _deliver(self, stream: TokenStream, plan: SamplingPlan) -> None:
        try:
            if plan.error is not None:
                stream.fail(plan.error)
            elif not stream.ended:
                stream.push(plan.picks[-1])
        except Exception as error:  # of one stream: the others of the group go on
            _logger.exception("Delivering a token failed.")
            stream.fail(GenerationError(f"Delivering a token failed: {type(error).__name__}: {error}"))


def _left_pad(prompts: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask, [rows, longest]; to the left, where generation does not continue from padding."""
    longest = max(len(prompt) for prompt in prompts)
    ids = [[_PAD] * (longest - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids), torch.tensor(mask)
