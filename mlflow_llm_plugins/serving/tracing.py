"""A sample of the requests as MLflow traces, written off the hot path."""

from __future__ import annotations

import logging
import os
import queue
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.generation import GenerationOutput

_logger = logging.getLogger(__name__)

SAMPLE = "MLFLOW_LLM_TRACE_SAMPLE"
_CLOSE_S = 5.0
_FIRST_ERROR = 400  # of HTTP's statuses
_MAX_WAITING = 1000  # traces; a tracking server that is slower than the requests must not fill the memory


class Tracer:
    """Writes one CHAT_MODEL span for some of the requests; they hold counts and times, no text."""

    def __init__(self, sample: float = 0.0) -> None:
        """Trace this share of the requests, from 0 to 1."""
        self._sample = sample
        self._waiting: queue.Queue[Callable[[], None] | None] = queue.Queue(_MAX_WAITING)
        self._writer = threading.Thread(target=self._write_all, name="llm-tracer", daemon=True)
        if sample > 0:
            # MLflow's own queue would be waited for when the process ends, for minutes where nobody answers
            os.environ.setdefault("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")
            self._writer.start()

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Tracer:
        """As `MLFLOW_LLM_TRACE_SAMPLE` says; by default nothing is traced.

        Raises:
            InvalidInputError: No number from 0 to 1.
        """
        text = environ.get(SAMPLE) or "0"
        try:
            sample = float(text)
        except ValueError:
            sample = -1.0
        if not 0 <= sample <= 1:
            raise InvalidInputError(f"{SAMPLE} must be a number from 0 (off) to 1 (every request), got {text!r}.")
        return cls(sample)

    def begin(self, request_id: str, model: str) -> RequestTrace:
        """The trace of a request, which is written when it ends if it is one of the sample."""
        is_sampled = self._sample > 0 and random.random() < self._sample
        return RequestTrace(request_id, model, self._put if is_sampled else None)

    def _put(self, write: Callable[[], None]) -> None:
        with suppress(queue.Full):
            self._waiting.put_nowait(write)

    def close(self) -> None:
        """Write what waits, as far as that takes no more than some seconds."""
        if self._sample > 0:
            with suppress(queue.Full):
                self._waiting.put(None, timeout=_CLOSE_S)
            self._writer.join(_CLOSE_S)

    def _write_all(self) -> None:
        while (write := self._waiting.get()) is not None:
            write()


class RequestTrace:
    """What becomes known of one request until it ends."""

    def __init__(self, request_id: str, model: str, put: Callable[[Callable[[], None]], None] | None) -> None:
        """Begin; without `put`, which takes what is to be written, nothing is."""
        self._put = put
        self._began_ns = time.time_ns()
        self._request_id = request_id
        self._model = model
        self._prompt_tokens = 0
        self._outputs: list[GenerationOutput] = []

    def spent(self, prompt_tokens: int, outputs: Sequence[GenerationOutput] = ()) -> None:
        """So much was read and written for it."""
        if self._put is not None:
            self._prompt_tokens += prompt_tokens
            self._outputs += outputs

    def end(self, status: int) -> None:
        """It was answered with this HTTP status, or would have been; the first call counts. Returns at once."""
        put, self._put = self._put, None
        if put is not None:
            put(partial(self._write, status, time.time_ns()))

    def _write(self, status: int, ended_ns: int) -> None:
        import mlflow
        from mlflow.entities import SpanStatusCode, SpanType
        from mlflow.tracing.constant import SpanAttributeKey

        attributes = {
            "request_id": self._request_id,
            "http_status": status,
            SpanAttributeKey.MODEL: self._model,
            SpanAttributeKey.CHAT_USAGE: self._usage(),
            "finish_reasons": [output.finish_reason for output in self._outputs],
            "time_to_first_token_s": min(
                (each.token_times[0] for each in self._outputs if each.token_times), default=None
            ),
        }
        try:
            span = mlflow.start_span_no_context(
                "completion", span_type=SpanType.CHAT_MODEL, attributes=attributes, start_time_ns=self._began_ns
            )
            is_answered = status < _FIRST_ERROR
            span.end(end_time_ns=ended_ns, status=SpanStatusCode.OK if is_answered else SpanStatusCode.ERROR)
        except Exception as error:  # a tracking server that is away must not be felt by anybody
            _logger.warning("Request %s is not traced: %s", self._request_id, type(error).__name__)

    def _usage(self) -> dict[str, int]:
        completion_tokens = sum(output.completion_tokens for output in self._outputs)
        return {
            "input_tokens": self._prompt_tokens,
            "output_tokens": completion_tokens,
            "total_tokens": self._prompt_tokens + completion_tokens,
        }
