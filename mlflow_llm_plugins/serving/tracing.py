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
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.generation import GenerationOutput

_logger = logging.getLogger(__name__)

SAMPLE = "MLFLOW_LLM_TRACE_SAMPLE"
_CLOSE_S = 5.0
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

    def answered(
        self, request_id: str, began_ns: int, prompt_tokens: int, outputs: Sequence[GenerationOutput], model: str
    ) -> None:
        """Trace an answered request, if it is one of the sample; returns at once."""
        if self._sample == 0 or random.random() >= self._sample:
            return
        write = partial(self._write, request_id, (began_ns, time.time_ns()), prompt_tokens, outputs, model)
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

    def _write(
        self,
        request_id: str,
        times_ns: tuple[int, int],
        prompt_tokens: int,
        outputs: Sequence[GenerationOutput],
        model: str,
    ) -> None:
        import mlflow
        from mlflow.entities import SpanType
        from mlflow.tracing.constant import SpanAttributeKey

        try:
            attributes = {"request_id": request_id, SpanAttributeKey.MODEL: model, **_usage(prompt_tokens, outputs)}
            span = mlflow.start_span_no_context(
                "completion", span_type=SpanType.CHAT_MODEL, attributes=attributes, start_time_ns=times_ns[0]
            )
            span.end(end_time_ns=times_ns[1])
        except Exception as error:  # a tracking server that is away must not be felt by anybody
            _logger.warning("Request %s is not traced: %s", request_id, type(error).__name__)


def _usage(prompt_tokens: int, outputs: Sequence[GenerationOutput]) -> dict[str, Any]:
    from mlflow.tracing.constant import SpanAttributeKey

    completion_tokens = sum(output.completion_tokens for output in outputs)
    first = min((output.token_times[0] for output in outputs if output.token_times), default=None)
    return {
        SpanAttributeKey.CHAT_USAGE: {
            "input_tokens": prompt_tokens,
            "output_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
        "finish_reasons": [output.finish_reason for output in outputs],
        "time_to_first_token_s": first,
    }
