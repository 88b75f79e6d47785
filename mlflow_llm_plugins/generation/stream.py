"""One open request: the engine pushes tokens in at one end, the caller reads them at the other."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import Any

from mlflow_llm_plugins.errors import (
    LLMError,
    RequestCancelledError,
    RequestTimeoutError,
)
from mlflow_llm_plugins.generation.admission import AdmittedRequest
from mlflow_llm_plugins.generation.detokenize import Detokenizer
from mlflow_llm_plugins.generation.requests import FinishReason, GenerationOutput, Pick, TokenEvent


class TokenStream:
    """A `GenerationStream` that ends exactly once: finished, failed, cancelled or out of time.

    `push` belongs to the engine's thread; everything else may be called from any thread.
    """

    def __init__(self, request: AdmittedRequest, tokenizer: Any, on_end: Callable[[TokenStream], None]) -> None:
        """Open the stream; the deadline runs from now.

        Args:
            request: What was admitted.
            tokenizer: Turns the tokens into text.
            on_end: Called once, when the stream has ended; frees the slot.
        """
        self.request = request
        self._opened = time.monotonic()
        self._deadline = self._opened + request.timeout_s
        self._on_end = on_end
        self._detokenizer = Detokenizer(tokenizer, request.options.stop, request.prompt_ids)
        self._text: list[str] = []
        self._picks: list[Pick] = []
        self._times: list[float] = []
        self.cached_tokens: int | None = 0  # of the prompt, found in the cache; set by the runner; None: not known
        self._events: queue.SimpleQueue[TokenEvent | None] = queue.SimpleQueue()
        self._deliver: Callable[[TokenEvent | None], None] = self._events.put
        self._delivering = threading.Lock()  # of _deliver, so that a new listener gets all events in order
        self._output: Future[GenerationOutput] = Future()
        self._ended = False
        self._ending = threading.Lock()  # of _ended

    # -- the engine's end ---------------------------------------------------------------------------------

    def push(self, pick: Pick) -> None:
        """Add a generated token; ends the stream where the answer ends or its time is up."""
        if self.ended:
            return
        is_end_token = pick.token_id in self.request.eos_token_ids
        text = "" if is_end_token else self._detokenizer.push(pick.token_id)
        self._picks.append(pick)
        self._times.append(time.monotonic() - self._opened)
        reason = self._finish_reason(is_end_token or pick.completes)
        if reason is not None and not self._detokenizer.stopped:
            text += self._detokenizer.flush()
            reason = self._finish_reason(is_end_token or pick.completes)
        self._text.append(text)
        with self._delivering:
            self._deliver(TokenEvent(pick.token_id, text, pick.logprob, pick.top_logprobs))
        if reason is not None:
            self._finish(reason)
        else:
            self.expire_if_due()

    def fail(self, error: LLMError) -> None:
        """End the stream with an error; does nothing when it has ended."""
        self._end(lambda: self._output.set_exception(error))

    @property
    def ended(self) -> bool:
        """Whether the answer is complete or has failed; nothing is added any more."""
        return self._ended

    @property
    def received(self) -> int:
        """Tokens pushed so far."""
        return len(self._picks)

    def expire_if_due(self) -> None:
        """End the stream with an error if its deadline has passed."""
        if time.monotonic() >= self._deadline:
            self._expire()

    # -- the caller's end ---------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[TokenEvent]:
        """Token events until the end; raises what `result` raises. Each event comes once, whoever asks for it."""
        while (event := self._next_event()) is not None:
            yield event
        self._output.result()

    def listen(self, listener: Callable[[TokenEvent | None], None]) -> None:
        """Have events handed over instead of iterating; see `GenerationStream.listen`."""
        with self._delivering:
            while not self._events.empty():
                listener(self._events.get())
            self._deliver = listener

    def add_done_callback(self, callback: Callable[[], None]) -> None:
        """Have the end told; see `GenerationStream.add_done_callback`."""
        self._output.add_done_callback(lambda _: callback())

    def cancel(self) -> None:
        """End the request and free its slot; harmless when it is finished."""
        self.fail(RequestCancelledError("The request was cancelled."))

    def result(self) -> GenerationOutput:
        """Wait for the whole answer, at most until the deadline."""
        while not self._output.done():
            wait([self._output], timeout=self._patience())
            self.expire_if_due()
        return self._output.result()

    def _next_event(self) -> TokenEvent | None:
        while True:
            try:
                event = self._events.get(timeout=self._patience())
            except queue.Empty:
                self.expire_if_due()
                continue
            if event is None:
                self._events.put(None)  # whoever else iterates, now or later, must see the end as well
            return event

    def _patience(self) -> float:
        return max(0.001, self._deadline - time.monotonic())

    # -- endings ------------------------------------------------------------------------------------------

    def _finish_reason(self, is_complete: bool) -> FinishReason | None:
        if is_complete or self._detokenizer.stopped:
            return "stop"
        return "length" if len(self._picks) >= self.request.max_new_tokens else None

    def _finish(self, reason: FinishReason) -> None:
        output = GenerationOutput(
            text="".join(self._text),
            token_ids=tuple(pick.token_id for pick in self._picks),
            logprobs=tuple(pick.logprob for pick in self._picks if pick.logprob is not None),
            prompt_tokens=len(self.request.prompt_ids),
            finish_reason=reason,
            top_logprobs=self._alternatives(),
            cached_tokens=self.cached_tokens,
            token_times=tuple(self._times),
        )
        self._end(lambda: self._output.set_result(output))

    def _alternatives(self) -> tuple[tuple[tuple[int, float], ...], ...]:
        return tuple(pick.top_logprobs for pick in self._picks) if self.request.options.top_logprobs else ()

    def _expire(self) -> None:
        self.fail(
            RequestTimeoutError(
                f"The request did not finish within {self.request.timeout_s:g} s "
                f"({len(self._picks)} of at most {self.request.max_new_tokens} tokens were generated). "
                "Ask for fewer tokens, or raise request_timeout_s."
            )
        )

    def _end(self, publish: Callable[[], None]) -> None:
        """Once: free the slot, so that whoever sees the end can submit again, then let the callers know."""
        with self._ending:
            if self._ended:
                return
            self._ended = True
        try:
            self._on_end(self)
        finally:
            publish()
            with self._delivering, suppress(Exception):  # a listener that raises is not the engine's affair
                self._deliver(None)
