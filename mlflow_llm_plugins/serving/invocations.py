"""`POST /invocations`: every payload of MLflow's scoring server, answered at the engine's own concurrency."""

from __future__ import annotations

import asyncio
import re
import traceback
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from mlflow_llm_plugins.errors import InvalidInputError, LLMError, retold
from mlflow_llm_plugins.serving.bodies import UnsupportedMediaTypeError, check_headers
from mlflow_llm_plugins.serving.disconnects import unless_disconnected
from mlflow_llm_plugins.serving.routes import Routes
from mlflow_llm_plugins.serving.server import Server, trace_of

_JSON = "application/json"
_UNSUPPORTED_MEDIA_TYPE = 415
_ROWS = ("inputs", "instances", "dataframe_split", "dataframe_records")
_FIELDS = (*_ROWS, "params", "messages", "prompt", "input", "columns", "index", "data")
_TELLING = 3  # characters
_BEHIND_THE_DATA = "\nError: "  # of a message that begins with all that could not be predicted
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
        """Whether our own routes read the body; columns are MLflow's to enforce, and odd bodies to refuse.

        Raises:
            InvalidInputError: It is a request and rows at once.
        """
        if self._input_schema is not None or not isinstance(body, dict):
            return False
        if ("messages" in body) == ("prompt" in body) or "params" in body:
            return False
        if rows := [name for name in _ROWS if body.get(name) is not None]:
            raise InvalidInputError(
                f"{rows[0]} cannot stand beside messages or prompt; give one of them.", param=rows[0]
            )
        return True

    async def _rows(self, request: Request, raw: bytes, content_type: str | None, body: Any) -> Response:
        call = self._server.call(trace_of(request))
        try:
            predict = asyncio.to_thread(call.run, partial(self._predict, raw, content_type, body))
            result = await unless_disconnected(request, predict, self._server.time_limit)
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
            raise _told(error, list(_texts(raw, body)), is_json=body is not None) from error


def _told(error: Exception, said: Sequence[str], is_json: bool) -> Exception:
    """The error as the client may hear it: MLflow's own texts repeat the data."""
    from mlflow.exceptions import MlflowException

    if not isinstance(error, MlflowException):
        told = error.__context__  # MLflow cannot always print the data into its text
        if isinstance(told, MlflowException):
            return _told(told, said, is_json)
        return error if _reached_the_model(error) else InvalidInputError(_UNREADABLE)
    cause = error.__cause__
    if isinstance(cause, LLMError):
        return retold(cause, _masked(str(cause), said))
    own = str(error.message or "").rpartition(_BEHIND_THE_DATA)[2]
    text = own.splitlines()[0] if own else ""
    if isinstance(error.__context__, Exception) and _reached_the_model(error.__context__):
        return error.__context__  # nothing that the caller could mend, though MLflow answers 400
    if int(error.get_http_status_code()) >= 500:
        return Exception(error)
    if not text or not is_json or "Failed to enforce schema" in text:  # with the data behind it
        return InvalidInputError(_UNREADABLE)
    return InvalidInputError(_masked(text, said))


def _masked(text: str, said: Sequence[str]) -> str:
    """The text without what the request says."""
    short = {each for each in said if len(each) <= len(text)}  # of a large body hardly any
    for each in sorted(short, key=len, reverse=True):  # a short one may be a part of a longer one
        for written in (each, repr(each)[1:-1]):
            if written in text:
                text = text.replace(written, "...")
    return text


def _reached_the_model(error: Exception) -> bool:
    """Whether it is of our own predict; else it is of what MLflow reads and checks before."""
    names = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(name.startswith("mlflow_llm_plugins.") and name != __name__ for name in names)


def _texts(raw: bytes, body: Any) -> Iterator[str]:
    """What a request says in strings that are long enough to tell something: all but the names that MLflow knows.

    Args:
        raw: CSV, where there is no `body`.
        body: JSON.
    """
    if body is None:
        cells = (cell.strip(" \t\"'") for cell in re.split(r"[,\r\n]", raw.decode(errors="replace")))
        yield from (cell for cell in cells if len(cell) >= _TELLING)
        return
    params = body.get("params") if isinstance(body, dict) else None
    known = {*_FIELDS, *(params if isinstance(params, dict) else ())}
    waiting = [body]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            if len(value) >= _TELLING and value not in known:
                yield value
        elif isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            waiting += value
