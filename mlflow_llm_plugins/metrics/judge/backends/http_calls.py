"""Requests to a judge's server: JSON there and JSON back."""

from __future__ import annotations

import ipaddress
import json
import time
from collections.abc import Mapping
from functools import partial
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import (
    HTTPError,
    InvalidHeader,
    MaxRetryError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
)
from urllib3.util import Retry, Timeout

from mlflow_llm_plugins.metrics.judge.backends.connections import Connections
from mlflow_llm_plugins.metrics.judge.backends.refusals import refusal_of
from mlflow_llm_plugins.metrics.judge.backends.retries import UnansweredError, with_retries
from mlflow_llm_plugins.metrics.judge.backends.settings import ServerSettings
from mlflow_llm_plugins.metrics.judge.backends.stopping import Stopping

_UNREACHED_S = 10.0  # in which a server that cannot be connected to is tried again
_LONGEST = 16 * 2**20  # bytes of an answer
_CHUNK = 2**16


class HttpCalls:
    """Asks one server; safe to use from several threads.

    Connections are kept, no redirect is followed, so a key goes nowhere else, and cookies are not.
    """

    def __init__(self, url: str, key: str | None, settings: ServerSettings, stopping: Stopping) -> None:
        """Begin; nothing is connected yet.

        Args:
            url: What paths are appended to.
            key: That lets requests in.
            settings: With the bounds of time.
            stopping: Ends tries, and what waits for an answer, when it is set.
        """
        self._url = url
        self._settings = settings
        self._stopping = stopping
        self._is_away = False  # the last question found no server: the next ones do not wait for it each
        self._session = _session(url, key, Connections(settings.max_in_flight, stopping))

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The answer's JSON; asked again, within the deadline, where that may help.

        Raises:
            UnansweredError: There is none.
        """
        return self._call("POST", path, body, self._settings.deadline_s)

    def get(self, path: str, deadline_s: float) -> Any:
        """As `post`, without a body, and within `deadline_s` seconds where the settings have no shorter bound."""
        return self._call("GET", path, None, min(deadline_s, self._settings.deadline_s))

    def close(self) -> None:
        """Close the connections; a later call opens others."""
        self._session.close()

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None, deadline_s: float) -> Any:
        end_s = time.monotonic() + deadline_s
        within_s = partial(self._within_s, deadline_s)
        try:
            answer = with_retries(lambda: self._try(method, path, body, end_s), within_s, self._stopping)
        except UnansweredError as error:
            self._is_away = error.is_unreached
            raise
        self._is_away = False
        return answer

    def _within_s(self, deadline_s: float, error: UnansweredError) -> float:
        if not error.is_unreached:
            return deadline_s
        return 0 if self._is_away else min(_UNREACHED_S, deadline_s)

    def _try(self, method: str, path: str, body: Mapping[str, Any] | None, end_s: float) -> Any:
        within_s = max(0.001, min(self._settings.timeout_s, end_s - time.monotonic()))
        timeout = Timeout(total=within_s, connect=self._settings.connect_timeout_s)
        try:
            with self._session.request(
                method,
                self._url + path,
                json=body,
                timeout=timeout,  # type: ignore[arg-type]  # its types know two numbers, its adapter takes this
                allow_redirects=False,
                stream=True,
            ) as response:
                content = _read(response)
        except (requests.RequestException, HTTPError) as error:
            raise _unanswered(error, within_s) from None
        if not 200 <= response.status_code < 300:  # no redirect is followed
            raise _refused(response, content)
        return _json(content)


class _Bearer(requests.auth.AuthBase):
    """The key, or none: without this, requests takes credentials from a .netrc file."""

    def __init__(self, key: str | None) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key is not None:  # HTTP clients write headers in latin-1, and servers compare the bytes of UTF-8
            request.headers["Authorization"] = "Bearer " + self._key.encode().decode("latin-1")
        return request


def is_loopback(url: str) -> bool:
    """Whether the URL is of this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _session(url: str, key: str | None, connections: Connections) -> requests.Session:
    session = requests.Session()
    session.trust_env = not is_loopback(url)  # proxies, but none on the way to this machine
    session.auth = _Bearer(key)
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    for scheme in ("http://", "https://"):
        session.mount(scheme, connections)
    return session


def _read(response: requests.Response) -> bytes:
    """The body, unless it is too long."""
    content = bytearray()
    for chunk in response.iter_content(_CHUNK):
        content += chunk
        if len(content) > _LONGEST:
            raise UnansweredError(f"the judge's answer is longer than {_LONGEST} bytes")
    return bytes(content)


def _unanswered(error: requests.RequestException | HTTPError, within_s: float) -> UnansweredError:
    cause = error.args[0] if error.args and isinstance(error, requests.RequestException) else error
    reason = cause.reason if isinstance(cause, MaxRetryError) else cause
    if isinstance(error, requests.ConnectTimeout) or isinstance(reason, NewConnectionError | NameResolutionError):
        return UnansweredError("the judge's server cannot be reached", is_transient=True, is_unreached=True)
    if isinstance(error, requests.exceptions.SSLError | requests.exceptions.ProxyError):
        return UnansweredError(f"the judge's server cannot be reached: {type(error).__name__}", is_unreached=True)
    if isinstance(error, requests.Timeout) or "timed out" in str(reason):
        return UnansweredError(f"the judge did not answer within {within_s:.3g} s", is_transient=True)
    is_broken = isinstance(error, requests.ConnectionError | requests.exceptions.ChunkedEncodingError | ProtocolError)
    return UnansweredError(f"the judge's answer broke off with {type(error).__name__}", is_transient=is_broken)


def _refused(response: requests.Response, content: bytes) -> UnansweredError:
    refusal = refusal_of(content)
    code = f" ({refusal.code})" if refusal.code else ""
    return UnansweredError(
        f"the judge answered with HTTP status {response.status_code}{code}",
        status=response.status_code,
        refusal=refusal,
        pause_s=_retry_after(response),
    )


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise UnansweredError("the judge's answer is no JSON") from None


def _retry_after(response: requests.Response) -> float:
    """Seconds, also where the header has a date; 0 where it has neither."""
    try:
        return max(0.0, Retry().parse_retry_after(response.headers.get("Retry-After", "0")))
    except InvalidHeader:
        return 0.0
