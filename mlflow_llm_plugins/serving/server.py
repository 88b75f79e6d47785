"""What one server process is made of, shared by its routes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from starlette.requests import Request

from mlflow_llm_plugins.errors import EngineUnavailableError, InvalidInputError, QueueFullError
from mlflow_llm_plugins.generation import GenerationEngine
from mlflow_llm_plugins.serving.answers import Answers
from mlflow_llm_plugins.serving.bodies import read_json, unpack
from mlflow_llm_plugins.serving.chooser import Chooser
from mlflow_llm_plugins.serving.failures import SHUTTING_DOWN, Failure, failure_of
from mlflow_llm_plugins.serving.limits import check_body, check_prompts, limited
from mlflow_llm_plugins.serving.mailbox import Mailbox
from mlflow_llm_plugins.serving.metrics import Metrics
from mlflow_llm_plugins.serving.model import Completions, ServedModel, Work
from mlflow_llm_plugins.serving.settings import ServingSettings, variable
from mlflow_llm_plugins.serving.threads import started_pool
from mlflow_llm_plugins.serving.tracing import Tracer

server_log = logging.getLogger("uvicorn.mlflow_llm")  # shown as the server's own messages are
_READERS = 4  # threads that parse, render and tokenise requests; the tokenizer works without Python's lock

_MAX_QUESTIONS_OPEN = 256

Read = Callable[[dict[str, Any]], Work]


@dataclass
class State:
    """Where the server is in its life; changed by the lifespan only."""

    is_ready: bool = False  # warmed up
    is_draining: bool = False  # takes no new work
    closes_connections: bool = False  # each answer is the last one on its connection


@dataclass
class Server:
    """The model, the limits and what is open now."""

    model: ServedModel
    settings: ServingSettings
    metrics: Metrics
    tracer: Tracer
    state: State = field(default_factory=State)
    open_streams: int = 0
    created: int = field(default_factory=lambda: int(time.time()))  # seconds since 1970
    _mailbox: Mailbox | None = None
    _chooser: Chooser | None = None

    @cached_property
    def readers(self) -> ThreadPoolExecutor:
        """Where requests are parsed, rendered and tokenised."""
        return started_pool(_READERS, "llm-reader")

    @cached_property
    def scoring(self) -> ThreadPoolExecutor:
        """Where the engine scores, which it does one call at a time."""
        return started_pool(1, "llm-scoring")

    @property
    def completions(self) -> Completions:
        """The model's chats and completions."""
        return self.model.completions

    @property
    def engine(self) -> GenerationEngine:
        """What generates."""
        return self.model.completions.engine

    def mailbox(self) -> Mailbox:
        """Of the running loop."""
        loop = asyncio.get_running_loop()
        if self._mailbox is None or self._mailbox.loop is not loop:
            self._mailbox = Mailbox(loop)
        return self._mailbox

    @property
    def chooser(self) -> Chooser:
        """The queue of typed decisions, which are counted apart from answers."""
        if self._chooser is None:
            limit = self.settings.max_queue_size or _MAX_QUESTIONS_OPEN
            self._chooser = Chooser(self.engine, self.scoring, limit)
        return self._chooser

    @property
    def timeout_s(self) -> float:
        """Seconds that a request may take, where the engine does not see to it."""
        from mlflow.environment_variables import MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT

        return self.settings.request_timeout_s or float(MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.get())

    def answers(self) -> Answers:
        """For the choices of one request."""
        return Answers(self.engine, self.model.max_in_flight, self.mailbox(), self.readers)

    async def body(self, request: Request) -> bytes:
        """The whole body, unpacked; logged where `MLFLOW_LLM_LOG_PROMPTS=1` asks for it."""
        raw = unpack(await request.body(), request.headers.get("content-encoding", ""), self.settings.max_body_bytes)
        if self.settings.log_prompts:
            server_log.info("Request %s: %s", request_id(request), raw.decode(errors="replace"))
        return raw

    def json(self, raw: bytes) -> dict[str, Any]:
        """The object in a body, within the limits; may take long."""
        body = read_json(raw, self.settings.max_json_depth)
        check_body(body, self.settings)
        if not isinstance(body, dict):
            raise InvalidInputError(f"The body must be a JSON object, got {type(body).__name__}.")
        return body

    def work(self, read: Read, raw: bytes) -> Work:
        """What a body asks for, within the limits; may take long."""
        work = read(self.json(raw))
        self.refuse_if_full(len(work.requests))
        check_prompts(work.prompts, self.settings)
        return work.with_requests([limited(request, self.settings) for request in work.requests])

    async def echoed(self, work: Work) -> Work:
        """The work with its prompts, where answers repeat them; the engine goes on with the answers meanwhile."""
        if not work.is_scored:
            return self.completions.echoed(work)
        return await asyncio.get_running_loop().run_in_executor(self.scoring, self.completions.echoed, work)

    def refuse_if_full(self, asked: int = 1) -> None:
        """Keep to the server's own bound on what is open; the engine has another one.

        Raises:
            QueueFullError: Others have so much open that not all of it fits.
        """
        limit = self.settings.max_queue_size
        if limit is not None and (taken := self.engine.stats().open_requests) + min(asked, limit) > limit:
            raise QueueFullError(
                f"{taken} answers are open, of {limit} that may be ({variable('max_queue_size')}). Try again later."
            )

    @contextmanager
    def stream_slot(self) -> Iterator[None]:
        """Count a stream while it is open.

        Raises:
            QueueFullError: As many as allowed are open.
        """
        limit = self.settings.max_streams
        if self.open_streams >= limit:
            raise QueueFullError(f"{limit} streams are open, as many as {variable('max_streams')} allows. Try later.")
        self.open_streams += 1
        try:
            yield
        finally:
            self.open_streams -= 1

    def failure_of(self, error: Exception, request_id: str) -> Failure:
        """What the client is told of an error."""
        if self.state.is_draining and isinstance(error, EngineUnavailableError):
            return SHUTTING_DOWN
        return failure_of(error, request_id)

    def close(self) -> None:
        """End the threads, after the last request."""
        for name in ("readers", "scoring"):
            if name in self.__dict__:  # it was needed
                self.__dict__[name].shutdown(wait=True, cancel_futures=True)
        self.tracer.close()


def request_id(request: Request) -> str:
    """The id that the front gave the request."""
    return str(request.scope["llm.request_id"])
