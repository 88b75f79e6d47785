"""Errors as a client sees them: OpenAI's body, the right status, and nothing of prompts, keys, paths or stacks."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.responses import JSONResponse

from mlflow_llm_plugins.errors import (
    EngineLostError,
    EngineUnavailableError,
    GenerationError,
    LLMError,
    PromptTooLongError,
    QueueFullError,
    RequestCancelledError,
    RequestTimeoutError,
    UnsupportedFeatureError,
    error_code,
)
from mlflow_llm_plugins.openai_api.decisions import InvalidDecisionError, TooManyQuestionsError

_logger = logging.getLogger(__name__)

RETRY_AFTER_S = 1
CLIENT_GONE = 499  # nginx's number; nobody reads it but logs, metrics and traces


class BodyTooLargeError(Exception):
    """More bytes came than are allowed."""

    def __init__(self, limit: int) -> None:
        """So many are."""
        super().__init__(limit)
        self.limit = limit


@dataclass(frozen=True, slots=True)
class Failure:
    """One error of OpenAI's API."""

    status: int
    message: str
    type: str
    code: str | None = None
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """`{"error": ...}`, also what an error event of a stream carries."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def mlflow_body(self) -> dict[str, Any]:
        """The same for `/invocations`, whose clients read MLflow's two fields."""
        return {"error_code": _MLFLOW_CODES.get(self.status, "INTERNAL_ERROR"), "message": self.message, **self.body()}

    def response(self, as_mlflow: bool = False) -> JSONResponse:
        """The answer to a request that has none yet."""
        return JSONResponse(self.mlflow_body() if as_mlflow else self.body(), self.status, dict(self.headers))


_RETRY = {"retry-after": str(RETRY_AFTER_S)}
_MLFLOW_CODES = {
    400: "INVALID_PARAMETER_VALUE",
    401: "UNAUTHENTICATED",
    404: "ENDPOINT_NOT_FOUND",
    405: "BAD_REQUEST",
    413: "BAD_REQUEST",
    415: "BAD_REQUEST",
    422: "INVALID_PARAMETER_VALUE",
    429: "RESOURCE_EXHAUSTED",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_CODES: dict[type[LLMError], str] = {
    PromptTooLongError: "context_length_exceeded",
    UnsupportedFeatureError: "unsupported_parameter",
    QueueFullError: "queue_full",
    RequestTimeoutError: "request_timeout",
    EngineLostError: "engine_lost",  # unlike engine_unavailable, with which nothing has run
    RequestCancelledError: "interrupted",
}
_STATUSES: dict[type[BaseException], int] = {  # of errors for which MLflow has no code
    TooManyQuestionsError: 413,
    InvalidDecisionError: 422,
}
_TEXTS: dict[type[LLMError], str] = {  # of errors whose own texts tell how it looks inside the server
    EngineLostError: "The engine ended while it worked on this request.",
    EngineUnavailableError: "The model cannot answer now; try again later.",
    RequestCancelledError: "The server is shutting down.",
    GenerationError: "The model failed on this request.",
}
_INTERNAL = "The server failed on this request."


def failure_of(error: BaseException, request_id: str) -> Failure:
    """What the client is told; what it must not know goes to the log, under the request's id."""
    if isinstance(error, BodyTooLargeError):
        return too_large(error.limit)
    if not isinstance(error, LLMError):
        _logger.error("Request %s failed: %s\n%s", request_id, type(error).__name__, _where(error))
        return Failure(500, f"{_INTERNAL} Request id: {request_id}", "server_error", "internal_error")
    status = _status(error)
    if status < 500 or isinstance(error, RequestTimeoutError):
        headers = _RETRY if status == 429 else {}
        param = getattr(error, "param", None)
        return Failure(status, str(error), _type(status), _first(_CODES, error), param, headers)
    _logger.error("Request %s failed: %s: %s", request_id, type(error).__name__, error)
    text = _first(_TEXTS, error) or _INTERNAL
    code = _first(_CODES, error) or ("engine_unavailable" if status == 503 else "internal_error")
    headers = _RETRY if status == 503 else {}
    return Failure(status, f"{text} Request id: {request_id}", "server_error", code, headers=headers)


def _status(error: LLMError) -> int:
    from mlflow.exceptions import ERROR_CODE_TO_HTTP_STATUS

    if isinstance(error, RequestCancelledError):  # by nobody but us, when the time to drain is over
        return 503
    status = next((_STATUSES[cls] for cls in type(error).__mro__ if cls in _STATUSES), None)
    status = getattr(error, "http_status", status)
    return int(ERROR_CODE_TO_HTTP_STATUS[error_code(error)]) if status is None else int(status)


def _type(status: int) -> str:
    return {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error", 504: "timeout_error"}.get(
        status, "invalid_request_error"
    )


def _first(table: Mapping[type[LLMError], str], error: LLMError) -> str | None:
    return next((table[cls] for cls in type(error).__mro__ if cls in table), None)


def _where(error: BaseException) -> str:
    """The stack without the error's own text, which may repeat a prompt."""
    return "".join(traceback.format_tb(error.__traceback__))


UNAUTHORIZED = Failure(
    401,
    "A valid API key is needed: send it as 'Authorization: Bearer KEY'.",
    "invalid_request_error",
    "invalid_api_key",
    headers={"connection": "close", "www-authenticate": "Bearer"},
)
SHUTTING_DOWN = Failure(
    503,
    "The server is shutting down and takes no new requests.",
    "server_error",
    "shutting_down",
    headers={**_RETRY, "connection": "close"},
)


INTERRUPTED = replace(
    SHUTTING_DOWN, message="The server shut down before this answer was complete.", code="interrupted"
)


def too_large(limit: int) -> Failure:
    """The body has more bytes than allowed."""
    return Failure(
        413,
        f"The body is larger than {limit} bytes (MLFLOW_LLM_MAX_BODY_BYTES). Send less at once.",
        "invalid_request_error",
        "request_too_large",
        headers={"connection": "close"},
    )
