"""`POST /invocations`: every payload of MLflow's scoring server, answered at the engine's own concurrency."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Iterator
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from mlflow_llm_plugins.errors import InvalidInputError, LLMError
from mlflow_llm_plugins.serving.bodies import UnsupportedMediaTypeError, check_headers
from mlflow_llm_plugins.serving.disconnects import unless_disconnected
from mlflow_llm_plugins.serving.routes import Routes
from mlflow_llm_plugins.serving.server import Server, trace_of

_JSON = "application/json"
_UNSUPPORTED_MEDIA_TYPE = 415
_UNREADABLE = (
    "MLflow cannot read this payload, or the model cannot take it. Send a JSON object with messages, prompt, inputs, "
    "instances, dataframe_split or dataframe_records; or CSV, with its content-type."
)


class Invocations:
    """Answers `/invocations`: one request as our own routes do, rows through MLflow's own function."""

    def __init__(self, server: Server, routes: Routes, model: Any) -> None:
        """Serve this pyfunc model."""
        self._server = server
        self._routes = routes
        self._model = model
        self._input_schema = model.metadata.get_input_schema()

    async def answer(self, request: Request) -> Response:
        """Answer any payload."""
        content_type = request.headers.get("content-type")
        if content_type is None:
            check_headers(request.headers)
        raw = await self._server.body(request)
        body: Any = None
        if content_type is None or content_type.partition(";")[0].strip().lower() == _JSON:
            body = await self._server.mailbox().loop.run_in_executor(self._server.readers, self._server.read, raw)
        if self._is_request(body):
            completions = self._server.completions
            read = completions.chat if "messages" in body else completions.completion
            return await self._routes.answer(request, read, raw)
        return await self._rows(request, raw, content_type, body)

    def _is_request(self, body: Any) -> bool:
        """Whether our own routes read the body; columns are MLflow's to enforce, and odd bodies to refuse."""
        if self._input_schema is not None or not isinstance(body, dict):
            return False
        return ("messages" in body) != ("prompt" in body) and "params" not in body

    async def _rows(self, request: Request, raw: bytes, content_type: str | None, body: Any) -> Response:
        call = self._server.call(trace_of(request))
        try:
            predict = asyncio.to_thread(call.run, partial(self._predict, raw, content_type, body))
            result = await unless_disconnected(request, predict, self._server.timeout_s)
        finally:
            call.close()
        if result.status == _UNSUPPORTED_MEDIA_TYPE:
            raise UnsupportedMediaTypeError(str(result.response))
        return Response(result.response, result.status, media_type=result.mimetype)

    def _predict(self, raw: bytes, content_type: str | None, body: Any) -> Any:
        from mlflow.pyfunc.scoring_server import invocations

        try:
            return invocations(raw, content_type or _JSON, self._model, self._input_schema)
        except Exception as error:
            raise _told(error, body) from error


def _told(error: Exception, body: Any) -> Exception:
    """The error as the client may hear it: MLflow's own texts repeat the data."""
    from mlflow.exceptions import MlflowException

    if not isinstance(error, MlflowException):
        told = error.__context__  # MLflow cannot always print the data into its text
        if isinstance(told, MlflowException):
            return _told(told, body)
        return error if _reached_the_model(error) else InvalidInputError(_UNREADABLE)
    cause = error.__cause__
    if isinstance(cause, LLMError):
        return cause
    text = str(error.message).splitlines()[0] if error.message else ""
    if isinstance(error.__context__, Exception) and _reached_the_model(error.__context__):
        return error.__context__  # nothing that the caller could mend, though MLflow answers 400
    if int(error.get_http_status_code()) >= 500:
        return Exception(error)
    repeats = not text or body is None or "Failed to predict data" in text
    if repeats or any(said in text for said in _texts(body)):
        return InvalidInputError(_UNREADABLE)
    return InvalidInputError(text)


def _reached_the_model(error: Exception) -> bool:
    """Whether it is of our own predict; else it is of what MLflow reads and checks before."""
    names = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(name.startswith("mlflow_llm_plugins.") and name != __name__ for name in names)


def _texts(body: Any) -> Iterator[str]:
    """Every string in a body, keys too."""
    waiting = [body]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            waiting += value
