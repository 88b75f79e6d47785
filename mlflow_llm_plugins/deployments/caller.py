"""Requests to the servers of deployments: sent again only where none can have run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import requests
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential_jitter
from urllib3.exceptions import InvalidHeader, MaxRetryError, NewConnectionError, ReadTimeoutError
from urllib3.util import Retry

from mlflow_llm_plugins.deployments.address import Address
from mlflow_llm_plugins.deployments.event_stream import CONTENT_TYPE, pieces
from mlflow_llm_plugins.deployments.failures import (
    broken_off,
    failure_of,
    has_not_run,
    silent,
    unreachable,
    unreadable,
)
from mlflow_llm_plugins.deployments.payloads import Request
from mlflow_llm_plugins.errors import LLMError

_GROWING = wait_exponential_jitter(initial=0.1, max=2, jitter=0.1)  # seconds between tries


class Caller:
    """Asks servers; safe to use from several threads."""

    def __init__(self, connect_s: float = 5, unreachable_s: float = 10, grace_s: float = 5) -> None:
        """Begin; nothing is connected yet.

        Args:
            connect_s: Seconds that one connection may take.
            unreachable_s: Seconds in which a server that does not answer is tried again.
            grace_s: Seconds beyond the server's own deadline in which its answer must come.
        """
        self._connect_s = connect_s
        self._unreachable_s = unreachable_s
        self._grace_s = grace_s

    def predict(self, address: Address, request: Request) -> Any:
        """The whole answer.

        A server that cannot be reached or is not ready, and one of ours that is busy, is asked again for a while.

        Raises:
            LLMError: As `failures.FAILURES` says; also when no answer comes, or none that can be read.
        """
        with self._response(address, request) as response:
            try:
                return json.loads(response.content)
            except ValueError:
                raise unreadable(_content_type(response), "JSON", request.path, address) from None

    def stream(self, address: Address, request: Request) -> Iterator[dict[str, Any]]:
        """The pieces of an answer as they come; asked for with the first one.

        The connection is closed when the iterator ends, is closed or dropped; the server then stops the work.

        Raises:
            LLMError: As `predict`; what was yielded before is then incomplete.
        """
        with self._response(address, request, stream=True) as response:
            if _content_type(response) != CONTENT_TYPE:
                raise unreadable(_content_type(response), "a stream of events", request.path, address)
            try:
                yield from pieces(response.iter_lines(), request.path, address)
            except requests.RequestException as error:
                raise _unanswered(error, address) from error

    def _response(self, address: Address, request: Request, stream: bool = False) -> requests.Response:
        retrying = Retrying(retry=retry_if_exception_type(_NotTakenError), wait=_pause, stop=_is_late, reraise=True)
        try:
            return retrying(self._try, address, request, address.authorization(), stream)
        except _NotTakenError as error:
            raise error.failure from error.__cause__

    def _try(self, address: Address, request: Request, headers: dict[str, str], stream: bool) -> requests.Response:
        try:
            with _session() as session:  # closed when the response has come; that of a stream goes on
                response = session.post(
                    address.url + request.path,
                    json=request.body,
                    headers=headers,
                    timeout=(min(self._connect_s, address.timeout_s), address.timeout_s + self._grace_s),
                    stream=stream,
                    allow_redirects=False,
                )
            refusal = None if response.status_code == HTTPStatus.OK else response.content
        except requests.RequestException as error:
            if _is_unreached(error):
                within_s = min(self._unreachable_s, address.timeout_s)
                raise _NotTakenError(unreachable(address), within_s) from error
            raise _unanswered(error, address) from error
        if refusal is None:
            return response
        failure = failure_of(response.status_code, refusal, request.path, address)
        if has_not_run(response.status_code, refusal, address.is_ours):
            raise _NotTakenError(failure, address.timeout_s, _retry_after(response))
        raise failure


def _session() -> requests.Session:
    """For one request: a kept connection may be closed just when another is sent on it, and nobody knows if it ran."""
    session = requests.Session()
    session.trust_env = False  # no proxy, and no other credentials, on the way to this machine
    session.headers.update({"Connection": "close", "Accept-Encoding": "identity"})
    return session


class _NotTakenError(Exception):
    """The server has done nothing on the request, so that it may be sent again."""

    def __init__(self, failure: LLMError, within_s: float, pause_s: float = 0) -> None:
        super().__init__(str(failure))
        self.failure = failure  # for the caller, when it is too late
        self.within_s = within_s  # after the first try
        self.pause_s = pause_s  # that the server asks for


def _not_taken(state: RetryCallState) -> _NotTakenError:
    error = state.outcome.exception() if state.outcome is not None else None
    assert isinstance(error, _NotTakenError)  # nothing else is tried again
    return error


def _pause(state: RetryCallState) -> float:
    return max(_not_taken(state).pause_s, _GROWING(state))


def _is_late(state: RetryCallState) -> bool:
    """Whether the pause would outlast the bound; then the error comes at once."""
    return (state.seconds_since_start or 0) + state.upcoming_sleep > _not_taken(state).within_s


def _is_unreached(error: requests.RequestException) -> bool:
    """Whether there was no connection on which anything could be sent."""
    cause = error.args[0] if error.args else None
    refused = isinstance(cause, MaxRetryError) and isinstance(cause.reason, NewConnectionError)
    return refused or isinstance(error, requests.ConnectTimeout)


def _unanswered(error: requests.RequestException, address: Address) -> LLMError:
    """The request was sent, maybe in part; requests tells a silence within an answer as a broken connection."""
    cause = error.args[0] if error.args else None
    late = isinstance(error, requests.ReadTimeout) or isinstance(cause, ReadTimeoutError)
    return silent(address) if late else broken_off(address)


def _retry_after(response: requests.Response) -> float:
    """Seconds, also where the header has a date; 0 where it has neither."""
    try:
        return Retry().parse_retry_after(response.headers.get("Retry-After", "0"))
    except InvalidHeader:
        return 0


def _content_type(response: requests.Response) -> str:
    return response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
