"""What one server process is made of, shared by its routes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from starlette.requests import Request

from mlflow_llm_plugins.errors import (
    EngineLostError,
    EngineUnavailableError,
    InvalidInputError,
    QueueFullError,
    RequestTimeoutError,
)
from mlflow_llm_plugins.generation import GenerationEngine
from mlflow_llm_plugins.serving.answers import Answers
from mlflow_llm_plugins.serving.bodies import read_json, unpack
from mlflow_llm_plugins.serving.chooser import Chooser
from mlflow_llm_plugins.serving.disconnects import TimeLimit
from mlflow_llm_plugins.serving.failures import INTERRUPTED, SHUTTING_DOWN, Failure, failure_of
from mlflow_llm_plugins.serving.limits import check_body, check_prompts, check_scored
from mlflow_llm_plugins.serving.mailbox import Mailbox
from mlflow_llm_plugins.serving.metrics import Metrics
from mlflow_llm_plugins.serving.model import Completions, ServedModel, Work
from mlflow_llm_plugins.serving.served_call import ServedCall
from mlflow_llm_plugins.serving.settings import ServingSettings, variable
from mlflow_llm_plugins.serving.slots import Slots
from mlflow_llm_plugins.serving.threads import started_pool
from mlflow_llm_plugins.serving.tracing import RequestTrace, Tracer

server_log = logging.getLogger("uvicorn.mlflow_llm")  # shown as the server's own messages are
_READERS = 4  # threads that parse, render and tokenise requests; the tokenizer works without Python's lock

_MAX_QUESTIONS_OPEN = 256

Read = Callable[[dict[str, Any]], Work]


@dataclass
class State:
    """Where the server is in its life, and what is open now."""

    is_ready: bool = False  # warmed up
    is_draining: bool = False  # takes no new work
    closes_connections: bool = False  # each answer is the last one on its connection
    open_requests: int = 0  # for the engine
    is_idle: asyncio.Event = field(default_factory=asyncio.Event)  # none of them

    def __post_init__(self) -> None:
        """Nothing is open."""
        self.is_idle.set()

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count a request while it is open."""
        self.open_requests += 1
        self.is_idle.clear()
        try:
            yield
        finally:
            self.open_requests -= 1
            if not self.open_requests:
                self.is_idle.set()


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
    bodies: set[asyncio.Future[bytes]] = field(default_factory=set)  # that are being read
    _mailbox: Mailbox | None = None
    _chooser: Chooser | None = None

    @cached_property
    def slots(self) -> Slots:
        """Of answers."""
        return Slots(self.settings.max_queue_size)

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

    @property
    def time_limit(self) -> TimeLimit:
        """The same, with the setting in force."""
        is_ours = self.settings.request_timeout_s is not None
        return TimeLimit(self.timeout_s, variable("request_timeout_s") if is_ours else "--timeout")

    def call(self, trace: RequestTrace | None = None) -> ServedCall:
        """For what one request makes the engine do."""
        return ServedCall(self.slots, self.settings, self.metrics, trace)

    def trace(self, request: Request) -> RequestTrace:
        """Begin to trace a request, for which `trace_of` finds it."""
        trace: RequestTrace = self.tracer.begin(request_id(request), self.model.completions.model_name)
        request.scope["llm.trace"] = trace
        return trace

    def answers(self, call: ServedCall) -> Answers:
        """For the choices of one request."""
        return Answers(self.engine, call, self.model.max_in_flight, self.mailbox(), self.readers)

    async def body(self, request: Request) -> bytes:
        """The whole body, unpacked; logged where `MLFLOW_LLM_LOG_PROMPTS=1` asks for it.

        Raises:
            RequestTimeoutError: It does not come.
            EngineUnavailableError: The server shuts down before it is there.
        """
        raw = await self._read(request)
        if encoding := request.headers.get("content-encoding", ""):
            read = partial(unpack, raw, encoding, self.settings.max_body_bytes)
            raw = await asyncio.get_running_loop().run_in_executor(self.readers, read)
        if self.settings.log_prompts:
            server_log.info("Request %s: %s", request_id(request), raw.decode(errors="replace"))
        return raw

    async def _read(self, request: Request) -> bytes:
        read = asyncio.ensure_future(request.body())
        self.bodies.add(read)
        try:
            await asyncio.wait({read}, timeout=self.timeout_s)
            if read.cancelled():
                raise EngineUnavailableError("The server shuts down.")
            if not read.done():
                raise RequestTimeoutError(f"The body did not come within {self.timeout_s:g} s.")
            return read.result()
        finally:
            self.bodies.discard(read)
            read.cancel()

    def stop_reading(self) -> None:
        """Refuse the requests whose bodies are not there yet."""
        for read in self.bodies:
            read.cancel()

    def read(self, raw: bytes) -> Any:
        """What a body holds, within the limits; may take long."""
        return read_json(raw, self.settings.max_json_depth, self.settings.max_json_values)

    def json(self, raw: bytes) -> dict[str, Any]:
        """The object in a body, within the limits; may take long."""
        body = self.read(raw)
        check_body(body, self.settings)
        if not isinstance(body, dict):
            raise InvalidInputError(f"The body must be a JSON object, got {type(body).__name__}.")
        return body

    def work(self, read: Read, raw: bytes) -> Work:
        """What a body asks for; may take long."""
        work = read(self.json(raw))
        check_prompts(work.prompts, self.settings)
        if work.is_scored:
            check_scored(work.prompts, self.settings)
        return work

    async def echoed(self, work: Work, call: ServedCall) -> Work:
        """The work with its prompts, where answers repeat them; the engine goes on with the answers meanwhile."""
        if not work.is_scored:
            return self.completions.echoed(work)
        score = partial(call.run, partial(self.completions.echoed, work))
        return await self.chooser.score(len(work.prompts), score)

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
            return INTERRUPTED if isinstance(error, EngineLostError) else SHUTTING_DOWN
        return failure_of(error, request_id)

    def close(self) -> None:
        """End the threads, after the last request."""
        for name in ("readers", "scoring"):
            if name in self.__dict__:  # it was needed
                self.__dict__[name].shutdown(wait=False, cancel_futures=True)
        self.tracer.close()


def request_id(request: Request) -> str:
    """The id that the front gave the request."""
    return str(request.scope["llm.request_id"])


def trace_of(request: Request) -> RequestTrace:
    """What `Server.trace` began."""
    trace: RequestTrace = request.scope["llm.trace"]
    return trace
