"""The outermost layer of the server, as plain ASGI: who may come in, how much they may bring, and where it goes.

It stands in front of MLflow's own middleware, which would halve what a server can stream.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlflow_llm_plugins.openai_api.answers import new_id
from mlflow_llm_plugins.serving.access_log import CURRENT_ID
from mlflow_llm_plugins.serving.failures import SHUTTING_DOWN, UNAUTHORIZED, BodyTooLargeError, Failure, too_large
from mlflow_llm_plugins.serving.keys import ApiKeys
from mlflow_llm_plugins.serving.metrics import Metrics
from mlflow_llm_plugins.serving.server import State

OPEN_PATHS = frozenset({"/ping", "/health", "/ready"})  # asked by those that watch over the server, without a key
_OURS = frozenset({"/invocations", "/health", "/ready", "/metrics"})
_OUR_PREFIXES = ("/v1/", "/invocations/")
_SANE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


@dataclass(frozen=True, slots=True)
class Front:
    """Checks each request and hands it to our app or to MLflow's."""

    app: ASGIApp  # MLflow's
    ours: ASGIApp
    keys: ApiKeys
    state: State
    metrics: Metrics
    max_body_bytes: int
    stock_routes: Sequence[BaseRoute] = ()  # of MLflow's app; what has no route at all is told by ours

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request; lifespan events go to MLflow's app, and there are no websockets here."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await receive()
            await send({"type": "websocket.close", "code": 1003})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        request_id = _request_id(headers)
        scope["llm.request_id"] = request_id
        CURRENT_ID.set(request_id)
        exchange = _Exchange(receive, send, self.max_body_bytes, request_id, self.state)
        if failure := self._refusal(scope, headers):
            self.metrics.requested("refused", failure.status)
            await _refuse(failure, scope, receive, exchange.send)
            return
        app = self._app_of(scope)
        try:
            if scope["method"] == "POST":
                with self.state.counted():
                    await app(scope, exchange.receive, exchange.send)
            else:
                await app(scope, exchange.receive, exchange.send)
        except BodyTooLargeError:
            if not exchange.has_begun:
                await _refuse(too_large(self.max_body_bytes), scope, receive, exchange.send)

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> Failure | None:
        if scope["path"] in OPEN_PATHS:
            return None
        if self.keys and not self.keys.admit(headers.get(b"authorization", b"")):
            return UNAUTHORIZED
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 18 or int(length) > self.max_body_bytes:
            return too_large(self.max_body_bytes)
        if self.state.is_draining and scope["method"] == "POST":
            return SHUTTING_DOWN
        return None

    def _app_of(self, scope: Scope) -> ASGIApp:
        path = scope["path"]
        if path in _OURS or path.startswith(_OUR_PREFIXES):
            return self.ours
        is_stock = any(route.matches(scope)[0] is not Match.NONE for route in self.stock_routes)
        return self.app if is_stock else self.ours


class _Exchange:
    """The two ends of one request, with what is counted and added on the way."""

    def __init__(self, receive: Receive, send: Send, limit: int, request_id: str, state: State) -> None:
        self._receive = receive
        self._send = send
        self._limit = self._room = limit
        self._request_id = request_id.encode()
        self._state = state
        self.has_begun = False

    async def receive(self) -> Message:
        """The next message; a chunked body has no length to look at before."""
        message = await self._receive()
        self._room -= len(message.get("body", b""))
        if self._room < 0:
            raise BodyTooLargeError(self._limit)
        return message

    async def send(self, message: Message) -> None:
        """The answer, with the request's id."""
        if message["type"] == "http.response.start":
            self.has_begun = True
            added = [(b"x-request-id", self._request_id)]
            if self._state.is_draining or self._state.closes_connections:
                added.append((b"connection", b"close"))
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        await self._send(message)


def _request_id(headers: dict[bytes, bytes]) -> str:
    given = headers.get(b"x-request-id", b"")
    return given.decode() if _SANE_ID.fullmatch(given) else new_id("req")


async def _refuse(failure: Failure, scope: Scope, receive: Receive, send: Send) -> None:
    await failure.response(as_mlflow=scope["path"] == "/invocations")(scope, receive, send)
