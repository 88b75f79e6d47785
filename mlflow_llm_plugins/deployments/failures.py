"""What a server answers in place of an answer, as our errors: its own words, and what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from mlflow_llm_plugins.deployments.address import Address
from mlflow_llm_plugins.errors import (
    AccessDeniedError,
    EngineUnavailableError,
    GenerationError,
    InvalidInputError,
    LLMError,
    QueueFullError,
    RequestTimeoutError,
    ResourceNotFoundError,
    UnauthenticatedError,
)

_NO_SERVER = "server_unavailable"  # the code that only the relay gives
_NOT_RUN = frozenset({"queue_full", "engine_unavailable", "shutting_down"})  # of our server, before any work
_LONGEST = 500  # characters of a server's message
_FAILED = "Deployment {name!r} failed on the request: {said}"
_REFUSED = "Deployment {name!r} refuses the request: {said}"
_KEY = "Deployment {name!r} does not let the request in: {said} {key}"

FAILURES: dict[int, tuple[type[LLMError], str]] = {  # by HTTP status
    400: (InvalidInputError, _REFUSED),
    401: (UnauthenticatedError, _KEY),
    403: (AccessDeniedError, _KEY),
    404: (ResourceNotFoundError, "Deployment {name!r} has no route {path}: {said} Is its model of another flavor?"),
    413: (InvalidInputError, _REFUSED + " More is taken with -C environment=MLFLOW_LLM_MAX_BODY_BYTES=N."),
    422: (InvalidInputError, _REFUSED),
    429: (QueueFullError, _REFUSED + " Try again later, or raise max_queue_size in its model_config."),
    499: (GenerationError, _FAILED),
    500: (GenerationError, _FAILED),
    502: (GenerationError, _FAILED),
    503: (EngineUnavailableError, "Deployment {name!r} takes no requests now: {said} {ask}"),
    504: (
        RequestTimeoutError,
        "Deployment {name!r} gave the request up: {said} A request may take {timeout_s:g} s; ask for less, or raise "
        "request_timeout_s.",
    ),
}
_OTHER = "Deployment {name!r} answered {path} with HTTP status {status}: {said}"

_STATUSES = {  # of errors inside a stream, whose own status was sent before; by OpenAI's code or type
    "request_timeout": 504,
    "timeout_error": 504,
    "queue_full": 429,
    "rate_limit_error": 429,
    "engine_unavailable": 503,
    "engine_lost": 503,
    "shutting_down": 503,
    "interrupted": 503,
    "invalid_request_error": 400,
}
# MLflow's server repeats the data before it says what is wrong with them.
_QUOTED = re.compile(r"Failed to (?:predict|enforce schema of) data .*\sError: ", re.DOTALL)


def failure_of(status: int, body: bytes, path: str, address: Address) -> LLMError:
    """The error for an answer that is none.

    Args:
        status: HTTP's, not 200.
        body: OpenAI's or MLflow's JSON, or anything.
        path: That was asked.
        address: Of the deployment.
    """
    return _failure(status, _message(_json(body)), path, address)


def has_not_run(status: int, body: bytes, is_ours: bool) -> bool:
    """Whether nothing was done on the request: there is no server behind the port, or one of ours that is busy.

    One that broke off what it had begun says so in the same statuses, and the code of another flavor may do so too.
    """
    answer = _json(body)
    error = answer.get("error") if isinstance(answer, Mapping) else None
    code = error.get("code") if isinstance(error, Mapping) else None
    return status in (429, 503) and (code == _NO_SERVER or (is_ours and code in _NOT_RUN))


def failure_in_stream(error: object, path: str, address: Address) -> LLMError:
    """The error for what came in place of the next piece: the value of `error` in an event."""
    marks = (error.get("code"), error.get("type")) if isinstance(error, Mapping) else ()
    status = next((_STATUSES[mark] for mark in marks if isinstance(mark, str) and mark in _STATUSES), 500)
    return _failure(status, _message({"error": error}), path, address)


def unreachable(address: Address) -> EngineUnavailableError:
    """Nothing listens there."""
    return EngineUnavailableError(f"Deployment {address.name!r} does not answer at {address.url}; {_ask(address)}")


def broken_off(address: Address) -> EngineUnavailableError:
    """The connection ended before the answer did."""
    return EngineUnavailableError(
        f"Deployment {address.name!r} broke its answer off; it may have been stopped or restarted, and the request "
        f"may have run: {_ask(address)}"
    )


def silent(address: Address) -> RequestTimeoutError:
    """Nothing came though the server's own deadline is over."""
    return RequestTimeoutError(
        f"Deployment {address.name!r} was silent for more than {address.timeout_s:g} s, its request_timeout_s; "
        f"{_ask(address)}"
    )


def unreadable(content_type: str, wanted: str, path: str, address: Address) -> GenerationError:
    """The answer is of another kind."""
    return GenerationError(
        f"Deployment {address.name!r} answered {path} with {content_type or 'no content type'} that cannot be read "
        f"as {wanted}. Does another program listen at {address.url}? {_ask(address)}"
    )


def _failure(status: int, said: str, path: str, address: Address) -> LLMError:
    kind, text = FAILURES.get(status, (InvalidInputError if 400 <= status < 500 else GenerationError, _OTHER))
    return kind(
        text.format(
            name=address.name,
            status=status,
            path=path,
            said=said,
            key=_about_key(address),
            timeout_s=address.timeout_s,
            ask=_ask(address),
        )
    )


def _ask(address: Address) -> str:
    return f"`{address.command('get')}` says why."


def _about_key(address: Address) -> str:
    if address.api_key_file is not None:
        return f"It was sent the first key of api_key_file={str(address.api_key_file)!r}."
    return f"No key is known for it. Name the file of its keys: {address.command('update')} -C api_key_file=PATH."


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _message(answer: Any) -> str:
    """The server's own words on one line, and nothing else of what it sent: MLflow's also has a stack trace."""
    said = answer if isinstance(answer, Mapping) else {}
    error = said.get("error")
    told = [error.get("message") if isinstance(error, Mapping) else error, said.get("message"), said.get("detail")]
    message = next((text for text in told if isinstance(text, str) and text.strip()), "it gives no reason.")
    line = " ".join(_QUOTED.sub("", message).split())
    if len(line) > _LONGEST:
        return line[:_LONGEST] + "…"
    return line if line.endswith((".", "!", "?")) else f"{line}."
