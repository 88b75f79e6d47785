"""The answers to one HTTP request while the engine makes them, on the event loop's side."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial

from mlflow_llm_plugins.errors import EngineLostError, EngineUnavailableError, LLMError, QueueFullError, located
from mlflow_llm_plugins.generation import GenerationEngine, GenerationOutput, GenerationStream, TokenEvent
from mlflow_llm_plugins.generation.call_scope import CallScope
from mlflow_llm_plugins.serving.mailbox import Mailbox
from mlflow_llm_plugins.serving.model import Work

Arrival = tuple[int, TokenEvent | None]  # of which answer; None: it has ended


class Answers:
    """All choices of one request, some of them in the engine at the same time; belongs to one task of the loop."""

    def __init__(
        self,
        engine: GenerationEngine,
        call: CallScope,
        max_in_flight: int,
        mailbox: Mailbox,
        threads: Executor,
    ) -> None:
        """Submit nothing yet.

        Args:
            engine: Shared with other requests.
            call: Limits them, and ends them when it is cancelled.
            max_in_flight: Choices that are in the engine at the same time.
            mailbox: Of the running loop.
            threads: Where requests are read, checked and submitted, which may take long.
        """
        self._engine = engine
        self._call = call
        self._max_in_flight = max_in_flight
        self._mailbox = mailbox
        self._threads = threads
        self._waiting: deque[int] = deque()
        self._streams: dict[int, GenerationStream] = {}
        self._open: set[int] = set()
        self._arrived: list[Arrival] = []
        self._wake: asyncio.Future[None] | None = None

    async def submit(self, read: Callable[[], Work]) -> Work:
        """Read the request, check all its choices and submit the first ones, on another thread.

        Raises:
            LLMError: As `read` and `GenerationEngine.submit` do.
        """
        return await self._mailbox.loop.run_in_executor(self._threads, self._read_and_submit, read)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Where they arrive."""
        return self._mailbox.loop

    @property
    def are_done(self) -> bool:
        """Whether all have ended, and `next` has told it."""
        return not (self._arrived or self._open or self._waiting)

    async def next(self) -> list[Arrival]:
        """Wait for what arrives, or for `poke`: then nothing may have. Of a work that streams, each token arrives.

        Raises:
            LLMError: An answer failed, or a later one could not be submitted.
        """
        if not self._arrived and not self.are_done:
            self._wake = self._mailbox.loop.create_future()
            await self._wake
        arrived, self._arrived = self._arrived, []
        if self._waiting and len(self._open) < self._max_in_flight:
            await self._mailbox.loop.run_in_executor(self._threads, self._submit_some)
        for index, event in arrived:
            if event is None:
                self.output(index)  # raises what the answer failed with
        return arrived

    async def outputs(self) -> list[GenerationOutput]:
        """Wait for all answers; raises as `next` does."""
        while not self.are_done:
            await self.next()
        return [self.output(index) for index in range(len(self._work.requests))]

    def output(self, index: int) -> GenerationOutput:
        """An answer that has ended."""
        return self._streams[index].result()

    def poke(self) -> None:
        """Have `next` return now, even if nothing has arrived."""
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _read_and_submit(self, read: Callable[[], Work]) -> Work:
        work = read()
        self._work = work = work.with_requests(self._call.admit(work.requests))
        self._max_in_flight = self._call.window(self._max_in_flight)
        if len(work.requests) > 1:  # a single one is checked when it is submitted
            for index, request in enumerate(work.requests):
                _numbered(partial(self._engine.check, request), index, len(work.requests))
        self._waiting.extend(range(len(work.requests)))
        self._submit_some()
        return work

    def _submit_some(self) -> None:
        """As many as our share of the queue and the queue itself allow, but one at least."""
        while self._waiting and len(self._open) < self._max_in_flight:
            self._call.raise_if_cancelled()
            index = self._waiting.popleft()
            try:
                stream = self._engine.submit(self._work.requests[index])
            except QueueFullError:
                if not self._open:
                    raise
                self._waiting.appendleft(index)
                return
            except EngineUnavailableError as error:
                if self._streams:  # others of this request have run
                    raise EngineLostError(str(error)) from error
                raise
            self._streams[index] = stream
            self._open.add(index)
            self._call.add(stream)  # which is ended where the call was cancelled meanwhile
            self._attend(stream, index)

    def _attend(self, stream: GenerationStream, index: int) -> None:
        if self._work.options.stream:
            stream.listen(lambda event: self._mailbox.post(self._arrive, index, event))
        else:
            stream.add_done_callback(lambda: self._mailbox.post(self._arrive, index, None))

    def _arrive(self, index: int, event: TokenEvent | None) -> None:
        if event is None:
            self._open.discard(index)
        self._arrived.append((index, event))
        self.poke()


def _numbered(check: Callable[[], None], index: int, total: int) -> None:
    """Let an error about one of several choices say which one."""
    try:
        check()
    except LLMError as error:
        raise located(error, f"choice {index} (counting from 0) of {total}") from error
