"""A sample of the requests as MLflow traces, written off the hot path."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.generation import GenerationOutput

_logger = logging.getLogger(__name__)

SAMPLE = "MLFLOW_LLM_TRACE_SAMPLE"
_MAX_WAITING = 1000  # traces; a tracking server that is slower than the requests must not fill the memory


class Tracer:
    """Writes one CHAT_MODEL span for some of the requests; they hold counts and times, no text."""

    def __init__(self, sample: float = 0.0) -> None:
        """Trace this share of the requests, from 0 to 1."""
        self._sample = sample
        self._writer = ThreadPoolExecutor(1, "llm-tracer") if sample > 0 else None
        self._waiting = 0

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

    def answered(self, request_id: str, began_ns: int, outputs: Sequence[GenerationOutput], model: str) -> None:
        """Trace an answered request, if it is one of the sample; returns at once."""
        if self._writer is None or random.random() >= self._sample or self._waiting >= _MAX_WAITING:
            return
        self._waiting += 1
        self._writer.submit(self._write, request_id, began_ns, time.time_ns(), outputs, model)

    def close(self) -> None:
        """Write what waits and end the thread."""
        if self._writer is not None:
            self._writer.shutdown(wait=True)

    def _write(
        self, request_id: str, began_ns: int, ended_ns: int, outputs: Sequence[GenerationOutput], model: str
    ) -> None:
        import mlflow
        from mlflow.entities import SpanType
        from mlflow.tracing.constant import SpanAttributeKey

        self._waiting -= 1
        try:
            attributes = {"request_id": request_id, SpanAttributeKey.MODEL: model, **_usage(outputs)}
            span = mlflow.start_span_no_context(
                "completion", span_type=SpanType.CHAT_MODEL, attributes=attributes, start_time_ns=began_ns
            )
            span.end(end_time_ns=ended_ns)
        except Exception as error:  # a tracking server that is away must not be felt by anybody
            _logger.warning("Request %s is not traced: %s", request_id, type(error).__name__)


def _usage(outputs: Sequence[GenerationOutput]) -> dict[str, Any]:
    from mlflow.tracing.constant import SpanAttributeKey

    prompt_tokens = outputs[0].prompt_tokens if outputs else 0
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
