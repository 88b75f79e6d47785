"""An answer as server-sent events, while it is made."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from mlflow_llm_plugins.generation import GenerationOutput, TokenEvent
from mlflow_llm_plugins.openai_api import Choice, Chunk
from mlflow_llm_plugins.serving.answers import Answers, Arrival
from mlflow_llm_plugins.serving.model import Completions, Work

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"  # a comment, which clients skip
_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}  # nginx would collect the events


class EventStream(StreamingResponse):
    """Sends events; whatever ends it, `on_end` is called."""

    def __init__(self, events: AsyncIterator[bytes], on_end: Callable[[], None], give_up_at: float) -> None:
        """Take the events, each one complete; at `give_up_at` (of the loop's clock) it ends though nobody reads."""
        super().__init__(events, media_type="text/event-stream", headers=_HEADERS)
        self._on_end = on_end
        self._give_up_at = give_up_at

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them until they end or the client is gone."""
        sending = asyncio.ensure_future(super().__call__(scope, receive, send))
        loop = asyncio.get_running_loop()
        try:
            await asyncio.wait({sending}, timeout=max(0.0, self._give_up_at - loop.time()))
            if sending.done():
                sending.result()
        finally:
            sending.cancel()
            self._on_end()


class ChunkWriter:
    """Turns the arrivals of one work into bytes."""

    def __init__(self, completions: Completions, work: Work) -> None:
        """Begin."""
        self._completions = completions
        self._work = work
        self._chunks = completions.chunks(work)
        self._choices: dict[int, Choice] = {}

    def write(self, arrived: Iterable[Arrival], answers: Answers) -> bytes:
        """The events of what has arrived; may be none."""
        return b"".join(event(chunk) for index, token in arrived for chunk in self._of(index, token, answers))

    def closing(self, outputs: list[GenerationOutput]) -> bytes:
        """The last events of a complete answer."""
        unmade = self._completions.scored_only(self._chunks, self._work)
        chunks = [*unmade, *self._completions.closing(self._chunks, self._work, outputs)]
        return b"".join(map(event, chunks)) + DONE

    def _of(self, index: int, token: TokenEvent | None, answers: Answers) -> Iterable[Chunk]:
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = self._chunks.choice(index)
            yield from choice.opening()
        if token is None:
            yield from choice.finish(answers.output(index).finish_reason)
        else:
            yield from choice.push(token)


def event(data: Any) -> bytes:
    """One event."""
    return b"data: " + json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


class Pings:
    """Pokes the answers at an interval, so that a silent stream can say that it lives."""

    def __init__(self, answers: Answers, interval_s: float) -> None:
        """Begin with the block that this is used for."""
        self.are_due = False
        self._answers = answers
        self._interval_s = interval_s

    def __enter__(self) -> Pings:
        self._schedule()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _schedule(self) -> None:
        self._timer = self._answers.loop.call_later(self._interval_s, self._ring)

    def _ring(self) -> None:
        self.are_due = True
        self._answers.poke()
        self._schedule()
