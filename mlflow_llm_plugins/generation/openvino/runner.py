"""The parent's side of the engine `openvino`: streams in, tokens out, and the life of the child that makes them."""

from __future__ import annotations

import itertools
import logging
import os
import threading
from collections.abc import Sequence

from mlflow_llm_plugins.errors import (
    CheckpointError,
    EngineLostError,
    EngineUnavailableError,
    GenerationError,
    HardwareError,
)
from mlflow_llm_plugins.generation.openvino.child_process import ChildProcess
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
from mlflow_llm_plugins.generation.openvino.request_fields import request_fields
from mlflow_llm_plugins.generation.requests import Pick
from mlflow_llm_plugins.generation.shared_prefills import SharedPrefills
from mlflow_llm_plugins.generation.stream import TokenStream

_logger = logging.getLogger(__name__)

NAME = "openvino"
BLOCK_TOKENS = 32  # of a page of the CPU plugin's KV cache; it has no other size
_TARGET = "mlflow_llm_plugins.generation.openvino.pipeline_process:serve"
_ENDING_S = 10.0  # for the system to end a process that was killed


class OpenVINORunner:
    """Has a child process generate for all open requests as one continuously re-formed batch.

    When the child ends, the open requests fail within a second. A fresh one is ready in the time that it takes to
    start Python and load the model: one to four seconds for 40M parameters on two cores, by how busy they are.
    Requests that come meanwhile are refused.
    """

    name = NAME
    what = "generation process"

    def __init__(self, arguments: PipelineArguments, loading_timeout_s: float) -> None:
        """Start the child and wait until the model has answered once.

        Args:
            arguments: How its pipeline is built.
            loading_timeout_s: For the model to be loaded, now and after each death.

        Raises:
            CheckpointError: The library cannot load the model, or it fails at its first token.
            HardwareError: No process can be started, it ended while it loaded, or did not load in time.
        """
        self.cache_tokens: int | None = arguments.num_blocks * BLOCK_TOKENS
        self.disturbed = threading.Event()
        self.steps = 0
        self._arguments = arguments
        self._loading_timeout_s = loading_timeout_s
        self._parent = os.getpid()
        self._ids = itertools.count(1)
        self._streams: dict[int, TokenStream] = {}
        self._ids_of: dict[TokenStream, int] = {}
        self._lock = threading.Lock()  # of both, and of the child that they are sent to
        self._prefills = SharedPrefills(self._add, BLOCK_TOKENS if arguments.prefix_caching else None)
        self._is_closed = False
        self._reason = ""  # why the child ended, in its own words
        self._sent = self._taken = 0  # messages, of the current child
        self._child, self._reader = self._start_child()

    def start(self, stream: TokenStream) -> None:
        """Send the request to the child, or let it wait for the same prompt of another one."""
        stream.cached_tokens = None  # the library does not tell
        self._prefills.start(stream)

    def release(self, stream: TokenStream) -> None:
        """Tell the child, unless it has finished the request; its row is free after its current step."""
        with self._lock:
            request_id = self._ids_of.pop(stream, None)
            is_open = request_id is not None and self._streams.pop(request_id, None) is not None
            if is_open:
                self._send(End(request_id or 0))
        self._prefills.settle(stream)

    @property
    def owes_a_step(self) -> bool:
        """Whether the child has not taken all that it was sent, which it does before each step."""
        return self._sent > self._taken

    def abandon_step(self) -> None:
        """End the child: a fresh one takes its place."""
        self._reason = "its step did not return"
        self._child.kill()

    def is_alive(self) -> bool:
        """Whether the child runs."""
        return self._child.is_alive()

    def death(self) -> str:
        """What the child said last and how it ended."""
        return ", ".join(part for part in (self._reason, self._child.ending()) if part)

    def restart(self) -> None:
        """Start a fresh child with an empty cache; what is started meanwhile waits for it."""
        self._reader.join(_ENDING_S)
        self._child.close(_ENDING_S)
        try:
            self._child, self._reader = self._start_child()
        except Exception as error:
            for stream in self._all_streams():
                stream.fail(EngineLostError(f"The engine cannot be started again: {error}"))
            raise

    def begin_close(self) -> None:
        """End the child, also while it loads or in the middle of a step; no other takes its place."""
        if os.getpid() != self._parent:  # a fork of the process whose child it is
            return
        self._is_closed = True  # first: `_start_child` sets the child first, and looks at this then
        self._child.kill()

    def close(self) -> None:
        """End the child and wait for its end."""
        if os.getpid() != self._parent:
            return
        self.begin_close()
        if self._reader is not threading.current_thread():  # which may have held the last reference to the engine
            self._reader.join(_ENDING_S)
        self._child.close(_ENDING_S)

    def _add(self, stream: TokenStream) -> None:
        fields = request_fields(stream.request)
        with self._lock:
            request_id = next(self._ids)
            self._streams[request_id] = stream
            self._ids_of[stream] = request_id
            self._send(Start(request_id, stream.request.prompt_ids, fields))
        if stream.ended:  # while it was added: its release came first and did not know it
            self.release(stream)
        if not self.is_alive():
            self.disturbed.set()

    def _send(self, message: Start | End) -> None:
        """To the current child; the lock is held."""
        self._sent += 1
        self._child.send(message)

    def _start_child(self) -> tuple[ChildProcess, threading.Thread]:
        """A child that is ready, and the thread that reads what it says; open streams are sent to it."""
        child = ChildProcess(_TARGET, self._arguments, "llm-engine-openvino")
        with self._lock:  # never held while it starts, which may take long: `release` must not wait
            self._child, self._reason = child, ""  # so that `begin_close` can end it while it starts
            self._sent = self._taken = 0
            for request_id, stream in self._streams.items():
                self._send(Start(request_id, stream.request.prompt_ids, request_fields(stream.request)))
        try:
            if not self._is_closed:
                child.start()
            _wait_until_ready(child, self._loading_timeout_s)
        except BaseException as error:
            child.close(_ENDING_S)
            if self._is_closed:
                raise EngineUnavailableError("The engine was closed.") from error
            raise
        reader = threading.Thread(target=self._read, args=(child,), name="llm-engine-openvino-reader", daemon=True)
        reader.start()
        return child, reader

    def _read(self, child: ChildProcess) -> None:
        """Deliver what the child says until it ends."""
        try:
            while True:
                message = child.receive()
                if isinstance(message, Failed):
                    self._reason = message.reason
                    continue
                self.steps += 1
                self._taken = message.taken
                self._deliver(message)
        except EOFError:
            if not child.wait(_ENDING_S):
                child.kill()
            self.disturbed.set()

    def _deliver(self, step: Step) -> None:
        for tokens in step.tokens:
            with self._lock:
                # One that the library has finished must not be ended any more: forget it first.
                take = self._streams.pop if tokens.is_last else self._streams.get
                stream = take(tokens.request_id, None)
            if stream is not None:  # or it was released while the step ran
                self._push(stream, tokens)
        for refusal in step.refusals:
            self._fail(refusal)

    def _push(self, stream: TokenStream, tokens: Tokens) -> None:
        try:
            _push_picks(stream, tokens)
            self._prefills.settle(stream)
        except Exception as error:  # a raising stream would end the thread for everybody
            _logger.exception("Delivering a token failed.")
            stream.fail(GenerationError(f"Delivering a token failed: {type(error).__name__}: {error}"))

    def _fail(self, refusal: Refusal) -> None:
        with self._lock:
            stream = self._streams.pop(refusal.request_id, None)
        if stream is not None:
            stream.fail(GenerationError(f"OpenVINO GenAI does not answer this request: {refusal.reason}."))

    def _all_streams(self) -> list[TokenStream]:
        with self._lock:
            return list(self._streams.values())


def _push_picks(stream: TokenStream, tokens: Tokens) -> None:
    logprobs: Sequence[float | None] = tokens.logprobs or [None] * len(tokens.token_ids)
    last = len(tokens.token_ids) - 1
    for place, (token_id, logprob) in enumerate(zip(tokens.token_ids, logprobs, strict=True)):
        stream.push(Pick(token_id, logprob, completes=tokens.is_complete and place == last))
    if tokens.is_last and not stream.ended:
        stream.fail(GenerationError("OpenVINO GenAI ended this answer before its end."))


def _wait_until_ready(child: ChildProcess, timeout_s: float) -> None:
    try:
        message = child.receive(timeout_s)
    except TimeoutError as error:
        raise HardwareError(f"OpenVINO did not load the model within {timeout_s:.0f} s.") from error
    except EOFError as error:
        child.wait(_ENDING_S)
        raise HardwareError(
            f"The process that loads the model for OpenVINO came to an early end: {child.ending()}. Its log has the "
            "reason; a SIGKILL is the system's, for want of memory: free some, or load the model quantized."
        ) from error
    if isinstance(message, Failed):
        raise CheckpointError(f"OpenVINO cannot run the model: {message.reason}")
    assert isinstance(message, Ready)
    _logger.debug("OpenVINO's KV cache takes %d bytes.", message.cache_bytes)
