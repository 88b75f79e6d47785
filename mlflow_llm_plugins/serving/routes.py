"""Our own app: the routes of OpenAI's API, health and metrics, in front of what MLflow's scoring app has."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from datetime import date
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mlflow_llm_plugins.serving.bodies import check_headers
from mlflow_llm_plugins.serving.decisions import Decisions
from mlflow_llm_plugins.serving.disconnects import ClientGoneError, unless_disconnected
from mlflow_llm_plugins.serving.event_stream import EventStream
from mlflow_llm_plugins.serving.failures import CLIENT_GONE, Failure
from mlflow_llm_plugins.serving.job import Job
from mlflow_llm_plugins.serving.server import Read, Server, request_id, trace_of

Endpoint = Callable[[Request], Awaitable[Response]]

PREFIXES = ("", "/invocations")  # MLflow's container forwards only what begins with /invocations
_OPEN_STATES = ("running", "draining", "restarting")
_INVALID = "invalid_request_error"


class Routes:
    """The endpoints of one server."""

    def __init__(self, server: Server) -> None:
        """On this server."""
        self._server = server

    async def chat(self, request: Request) -> Response:
        """`POST /v1/chat/completions`."""
        return await self.generate(request, self._server.completions.chat)

    async def completion(self, request: Request) -> Response:
        """`POST /v1/completions`."""
        return await self.generate(request, self._server.completions.completion)

    async def generate(self, request: Request, read: Read) -> Response:
        """Answer a request for text, whole or as a stream."""
        check_headers(request.headers)
        return await self.answer(request, read, await self._server.body(request))

    async def answer(self, request: Request, read: Read, raw: bytes) -> Response:
        """Answer a body that is read already."""
        job = Job(self._server, request_id(request), trace_of(request))
        with ExitStack() as held:
            held.callback(job.close)
            await unless_disconnected(request, job.begin(read, raw), self._server.time_limit)
            if job.is_whole:
                return await job.answer()
            held.pop_all()  # the stream's now
            return job.stream()

    async def models(self, _: Request) -> Response:
        """`GET /v1/models`: the one model that is served, under TypeSafe's key as well."""
        name = self._server.completions.model_name
        typesafe = {
            "name": name,
            "description": "",
            "release_date": date.fromtimestamp(self._server.created).isoformat(),
        }
        return JSONResponse({"object": "list", "data": [self._model()], "models": [typesafe]})

    async def model(self, request: Request) -> Response:
        """`GET /v1/models/{name}`."""
        name = request.path_params["name"]
        if name != self._server.completions.model_name:
            served = self._server.completions.model_name
            text = f"This server has the model {served!r} only."
            return Failure(404, text, _INVALID, "model_not_found", "model").response()
        return JSONResponse(self._model())

    async def embeddings(self, _: Request) -> Response:
        """`POST /v1/embeddings`: not there, with the reason."""
        text = "This server has a model that generates text; it makes no embeddings."
        return Failure(404, text, _INVALID, "not_supported").response()

    async def health(self, _: Request) -> Response:
        """`GET /health`: whether the engine lives; a dead one needs a new process."""
        stats = self._server.engine.stats()
        return JSONResponse({"status": stats.state}, 200 if stats.state in _OPEN_STATES else 503)

    async def ready(self, _: Request) -> Response:
        """`GET /ready`: whether requests are taken."""
        state, engine = self._server.state, self._server.engine.stats()
        if state.is_draining:
            status = "draining"
        elif not state.is_ready:
            status = "warming up"
        else:
            status = "ready" if engine.state == "running" else engine.state
        return JSONResponse({"status": status}, 200 if status == "ready" else 503)

    async def metrics(self, _: Request) -> Response:
        """`GET /metrics`, for Prometheus."""
        self._server.metrics.observe(self._server.engine.stats())
        text, content_type = self._server.metrics.exposition()
        return Response(text, media_type=content_type)

    def _model(self) -> dict[str, Any]:
        stats = self._server.engine.stats()
        return {
            "id": self._server.completions.model_name,
            "object": "model",
            "created": self._server.created,
            "owned_by": "mlflow",
            "max_model_len": stats.max_context_length,
        }


def our_app(server: Server, routes: Routes, decisions: Decisions, invocations: Endpoint) -> Starlette:
    """All that is served in front of MLflow's own app.

    Args:
        server: Counts what is answered.
        routes: Of that server.
        decisions: Of that server.
        invocations: Answers `POST /invocations`.
    """
    table: list[tuple[str, str, Endpoint]] = [
        ("POST", "/v1/chat/completions", routes.chat),
        ("POST", "/v1/completions", routes.completion),
        ("POST", "/v1/systemone", decisions.systemone),
        ("POST", "/v1/decisions", decisions.decisions),
        ("GET", "/v1/models", routes.models),
        ("GET", "/v1/models/{name:path}", routes.model),
        ("POST", "/v1/embeddings", routes.embeddings),
    ]
    own = [
        Route(prefix + path, told(server, path, endpoint), methods=[method])
        for prefix in PREFIXES
        for method, path, endpoint in table
    ]
    own += [
        Route("/invocations", told(server, "/invocations", invocations, as_mlflow=True), methods=["POST"]),
        Route("/health", told(server, "/health", routes.health), methods=["GET"]),
        Route("/ready", told(server, "/ready", routes.ready), methods=["GET"]),
        Route("/metrics", told(server, "/metrics", routes.metrics), methods=["GET"]),
    ]
    app = Starlette(routes=own, exception_handlers={HTTPException: partial(_no_such_route, server)})
    app.router.redirect_slashes = False  # to an address that a proxy in front may not have
    return app


def told(server: Server, route: str, endpoint: Endpoint, as_mlflow: bool = False) -> Endpoint:
    """The endpoint with its errors as answers, its answers counted and, of what is posted, traced.

    Args:
        server: Counts.
        route: As the metrics call it.
        endpoint: May raise anything.
        as_mlflow: Errors carry MLflow's two fields also.
    """

    @functools.wraps(endpoint)
    async def answer(request: Request) -> Response:
        trace = server.trace(request) if request.method == "POST" else None
        try:
            response = await endpoint(request)
        except (ClientGoneError, ClientDisconnect):
            response = Response(status_code=CLIENT_GONE)
        except HTTPException:
            raise
        except Exception as error:
            response = server.failure_of(error, request_id(request)).response(as_mlflow)
        server.metrics.requested(route, response.status_code)
        if trace is not None and not isinstance(response, EventStream):  # which ends it itself
            trace.end(response.status_code)
        return response

    return answer


async def _no_such_route(server: Server, request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    server.metrics.requested("none", error.status_code)
    texts = {404: "There is no such route here.", 405: "This route does not have this method."}
    text = texts.get(error.status_code, str(error.detail))
    failure = Failure(error.status_code, text, _INVALID, headers=error.headers or {})
    return failure.response(as_mlflow=request.url.path == "/invocations")
