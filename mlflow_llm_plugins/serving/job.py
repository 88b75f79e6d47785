"""One HTTP request for text, from its body to its last byte."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from functools import partial

from starlette.responses import JSONResponse

from mlflow_llm_plugins.errors import RequestTimeoutError
from mlflow_llm_plugins.generation import GenerationOutput
from mlflow_llm_plugins.serving.answers import Arrival
from mlflow_llm_plugins.serving.event_stream import DONE, PING, ChunkWriter, EventStream, Pings, event
from mlflow_llm_plugins.serving.failures import CLIENT_GONE
from mlflow_llm_plugins.serving.model import Work
from mlflow_llm_plugins.serving.server import Read, Server
from mlflow_llm_plugins.serving.tracing import RequestTrace

_LAST_WORDS_S = 10  # for a client that does not read, after the deadline
_OK = 200


class Job:
    """The answers to one request; `close` frees what it holds, and may be called at any time."""

    def __init__(self, server: Server, request_id: str, trace: RequestTrace) -> None:
        """Nothing is submitted yet."""
        self._server = server
        self._request_id = request_id
        self._trace = trace
        self._call = server.call()
        self._answers = server.answers(self._call)
        self._deadline = self._answers.loop.time() + server.timeout_s
        self._is_late = False
        self._held = ExitStack()
        self._outputs: list[GenerationOutput] | None = None  # of a complete answer
        self.work: Work | None = None

    async def begin(self, read: Read, raw: bytes) -> None:
        """Submit, and wait for the whole answer; of a stream, for its first token, so that errors have a status.

        Raises:
            LLMError: The request cannot be answered.
        """
        work = await self._answers.submit(partial(self._server.work, read, raw))
        self.work = await self._server.echoed(work, self._call)
        if not work.options.stream:
            self._finish(await self._answers.outputs())
            return
        self._held.enter_context(self._server.stream_slot())
        with Pings(self._answers, self._server.settings.ping_interval_s):
            self._first: Sequence[Arrival] = await self._answers.next()

    @property
    def is_whole(self) -> bool:
        """Whether `answer` has it all; else `stream` goes on with it."""
        return self._outputs is not None

    async def answer(self) -> JSONResponse:
        """The whole answer; a large one is put together on another thread."""
        assert self.work is not None
        if "top_logprobs" not in self.work.options.sampling:
            return self._response()
        return await self._answers.loop.run_in_executor(self._server.readers, self._response)

    def _response(self) -> JSONResponse:
        return JSONResponse(self._server.completions.answer(self.work, self._outputs or []))

    def stream(self) -> EventStream:
        """The answer as it comes; closes the job, and ends its trace, when it ends."""
        self._held.callback(self._end_trace)
        return EventStream(self._events(), on_end=self.close, give_up_at=self._deadline + _LAST_WORDS_S)

    def close(self) -> None:
        """Cancel what is not finished."""
        self._call.close()
        self._held.close()

    async def _events(self) -> AsyncIterator[bytes]:
        assert self.work is not None
        writer = ChunkWriter(self._server.completions, self.work)
        try:
            async for data in self._tokens(writer):
                yield data
            self._finish(await self._answers.outputs())
            yield writer.closing(self._outputs or [])
        except Exception as error:  # the status is sent already: what went wrong can only be said here
            self._server.metrics.stream_failed()
            failure = self._server.failure_of(error, self._request_id)
            self._trace.end(failure.status)
            yield event(failure.body()) + DONE

    async def _tokens(self, writer: ChunkWriter) -> AsyncIterator[bytes]:
        if self._first:
            yield writer.write(self._first, self._answers)
        elif not self._answers.are_done:  # so long already
            yield PING
        self._held.callback(self._answers.loop.call_at(self._deadline, self._expire).cancel)
        with Pings(self._answers, self._server.settings.ping_interval_s) as pings:
            while not self._answers.are_done:
                if self._is_late:
                    raise RequestTimeoutError(f"The stream did not end within {self._server.timeout_s:g} s.")
                data = writer.write(await self._answers.next(), self._answers)
                if data or pings.are_due:
                    pings.are_due = False
                    yield data or PING

    def _expire(self) -> None:
        self._is_late = True
        self._answers.poke()

    def _finish(self, outputs: list[GenerationOutput]) -> None:
        assert self.work is not None
        self._outputs = outputs
        prompt_tokens = sum(map(len, self.work.prompts))
        self._server.metrics.answered(outputs, self.work.options.n)
        if not self.work.requests:
            self._server.metrics.scored(prompt_tokens)
        self._trace.spent(prompt_tokens, outputs)

    def _end_trace(self) -> None:
        self._trace.end(CLIENT_GONE if self._outputs is None else _OK)
