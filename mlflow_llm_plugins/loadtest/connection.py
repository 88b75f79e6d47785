"""One request over HTTP, timed."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import httpx

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.loadtest.answers import Answer, AnswerError, StreamedAnswer, WholeAnswer, error_code
from mlflow_llm_plugins.loadtest.results import RequestResult
from mlflow_llm_plugins.loadtest.settings import Target

IDLE_S = 3.0  # below the 5 s after which uvicorn closes a connection, maybe just when a request is sent on it
now = time.perf_counter


@dataclass(frozen=True, slots=True)
class Connection:
    """An HTTP client of one server; not for several event loops."""

    client: httpx.AsyncClient
    target: Target
    headers: dict[str, str]

    async def ask(self, body: bytes, began: float, due_s: float | None = None) -> RequestResult:
        """Send a request, and read its answer to the end.

        Whatever the server does is a result; only what is wrong here is raised.

        Args:
            body: Encoded as JSON.
            began: When the load began, on the clock `now`.
            due_s: When the request should have been sent, after that; None: now.
        """
        answer = StreamedAnswer() if self.target.streams else WholeAnswer()
        sent = now()
        failure = await self._failure(body, answer)
        ended = now() if failure or answer.last is None else answer.last
        return RequestResult(
            sent_s=sent - began,
            ended_s=ended - began,
            first_token_s=None if answer.first is None else answer.first - began,
            gaps_s=tuple(answer.gaps),
            prompt_tokens=answer.tokens("prompt_tokens"),
            completion_tokens=answer.tokens("completion_tokens"),
            status=answer.status,
            failure=failure,
            late_s=0.0 if due_s is None else max(0.0, sent - began - due_s),
        )

    async def _failure(self, body: bytes, answer: Answer) -> str:
        """Let the answer come in; what went wrong, or an empty string."""
        try:
            # not asyncio.wait_for, which may swallow a cancellation before Python 3.12
            with anyio.fail_after(self.target.timeout_s):
                await self._receive(body, answer)
        except TimeoutError:
            return "timeout"
        except AnswerError as error:
            return str(error)
        except httpx.TransportError as error:
            return type(error).__name__ if answer.status is None else "cut off"
        return ""

    async def _receive(self, body: bytes, answer: Answer) -> None:
        url = self.target.url + self.target.path
        async with self.client.stream("POST", url, content=body, headers=self.headers) as response:
            answer.status = response.status_code
            if response.status_code != httpx.codes.OK:
                raise AnswerError(f"HTTP {response.status_code}{error_code(await response.aread())}")
            _check_content_type(response, answer)
            async for piece in response.aiter_raw():  # raw: nothing is compressed
                answer.feed(piece, now())
        answer.end()


@asynccontextmanager
async def connected(target: Target) -> AsyncIterator[Connection]:
    """A connection that is closed when the block ends.

    Raises:
        InvalidInputError: The environment variable of the API key is empty.
    """
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", **_authorization(target)}
    # no limits: a request that waits for a connection does not wait for the server; no proxies: they cost time too
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=IDLE_S)
    async with httpx.AsyncClient(timeout=None, limits=limits, trust_env=False) as client:  # `ask` has the deadline
        yield Connection(client, target, headers)


def _authorization(target: Target) -> dict[str, str]:
    if target.api_key_env is None:
        return {}
    key = os.environ.get(target.api_key_env)
    if not key:
        raise InvalidInputError(
            f"api_key_env={target.api_key_env!r}: there is no such environment variable, or it is empty. "
            "Export the API key under this name."
        )
    return {"Authorization": f"Bearer {key}"}


def _check_content_type(response: httpx.Response, answer: Answer) -> None:
    found = response.headers.get("Content-Type", "").partition(";")[0]
    if found != answer.CONTENT_TYPE:
        raise AnswerError(f"answered with {found or 'no content type'} instead of {answer.CONTENT_TYPE}")
