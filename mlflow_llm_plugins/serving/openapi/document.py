"""The document itself: which routes there are, what they take and how they answer."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlflow_llm_plugins
from mlflow_llm_plugins.serving.front import OPEN_PATHS
from mlflow_llm_plugins.serving.keys import ApiKeys
from mlflow_llm_plugins.serving.openapi.answers import answer_schemas
from mlflow_llm_plugins.serving.openapi.decisions import decision_schemas
from mlflow_llm_plugins.serving.openapi.generation import request_schemas
from mlflow_llm_plugins.serving.openapi.schema import TEXT, Schema, any_of, integer, ref
from mlflow_llm_plugins.serving.settings import ServingSettings

Document = dict[str, Any]

_JSON = "application/json"
_INFO = {
    "title": "MLflow model server for language models",
    "version": mlflow_llm_plugins.__version__,
    "description": (
        "OpenAI's API, typed decisions and MLflow's own payloads on one model.\n\n"
        "- Every route under `/v1` is also there under `/invocations/v1`.\n"
        "- Other paths under `/v1` answer 404, other methods 405, with the same body as any error.\n"
        "- Bodies may be packed with gzip, and say so by `content-encoding`.\n"
        "- Every answer has an `x-request-id`, which is the request's own where it sends one.\n"
        "- Fields that are not listed are left alone, unless they would change the answer: then they are refused."
    ),
}
_STREAM = (
    "Each event is a chunk of the answer, the last one `[DONE]`. What goes wrong after the first token comes as an "
    "event with an `error`."
)
_ERRORS = {
    400: "The body is no JSON, or has a value that cannot be used; the message names the field.",
    401: "No valid key was sent.",
    404: "There is no such thing on this server; the message has the reason.",
    413: "The request is larger than the server allows.",
    415: "The body is of a content type that is not read.",
    422: "A field of a decision request cannot be used; the message names all of them.",
    429: "As much is open as the server allows; try again after `retry-after` seconds.",
    500: "The server failed; its log has more under the request's id.",
    503: "The model cannot answer now, or the server is shutting down.",
    504: "The answer was not made in time.",
}
_OF_BODIES = (400, 413, 415)
_OF_WORK = (429, 500, 503, 504)
_BUSY = {"retry-after": {"description": "Seconds.", "schema": integer(minimum=0)}}
_BEARER = {
    "type": "http",
    "scheme": "bearer",
    "description": "Asked for where the server was started with MLFLOW_LLM_API_KEY or MLFLOW_LLM_API_KEY_FILE.",
}


def openapi_of(stock: Callable[[], Document], settings: ServingSettings, keys: ApiKeys) -> Callable[[], Document]:
    """What FastAPI's `app.openapi` is to be, so that `/openapi.json` and `/docs` show our routes beside MLflow's.

    Args:
        stock: The app's own `openapi`.
        settings: The limits that the document tells.
        keys: Where there are some, the document asks for one.

    Returns:
        A function that builds the document when it is called first.
    """

    @functools.cache
    def openapi() -> Document:
        document = stock()
        paths = {**document["paths"], **_paths()}
        components = dict(document.get("components", {}))
        components["schemas"] = {**components.get("schemas", {}), **_schemas(settings)}
        components["securitySchemes"] = {"bearer": _BEARER}
        document = {**document, "info": _INFO, "paths": paths, "components": components}
        return _locked(document) if keys else document

    return openapi


def _schemas(settings: ServingSettings) -> dict[str, Schema]:
    return {**request_schemas(settings), **decision_schemas(settings), **answer_schemas()}


def _paths() -> dict[str, Any]:
    return {**_generation_paths(), **_decision_paths(), **_model_paths(), **_server_paths()}


def _generation_paths() -> dict[str, Any]:
    errors = _errors(*_OF_BODIES, *_OF_WORK)
    kinds = {
        "/v1/chat/completions": ("chat", "Answer a conversation", "ChatCompletionRequest", "ChatCompletion"),
        "/v1/completions": ("complete", "Continue prompts", "CompletionRequest", "TextCompletion"),
    }
    paths = {
        path: _post(name, summary, {_JSON: ref(request)}, {"200": _answered(ref(answer), streams=True), **errors})
        for path, (name, summary, request, answer) in kinds.items()
    }
    return {**paths, "/invocations": _invocations()}


def _invocations() -> dict[str, Any]:
    requests = (ref("ChatCompletionRequest"), ref("CompletionRequest"), ref("Rows"))
    bodies = {_JSON: any_of(*requests), "text/csv": TEXT, "application/vnd.apache.parquet": {}}
    answer = any_of(ref("ChatCompletion"), ref("TextCompletion"), ref("Predictions"))
    errors = _errors(*_OF_BODIES, *_OF_WORK, body="InvocationsError")
    summary = "Answer any payload of MLflow's scoring server, a conversation or prompts"
    return _post("invoke", summary, bodies, {"200": _answered(answer, streams=True), **errors})


def _decision_paths() -> dict[str, Any]:
    errors = _errors(*_OF_BODIES, 422, *_OF_WORK)
    kinds = {
        "/v1/systemone": ("systemone", "Answer questions with probabilities (System One)", "SystemOne"),
        "/v1/decisions": ("decide", "Answer questions with probabilities (OpenAI's Decisions)", "Decisions"),
    }
    return {
        path: _post(name, summary, {_JSON: ref(f"{kind}Request")}, {"200": _answered(ref(f"{kind}Answer")), **errors})
        for path, (name, summary, kind) in kinds.items()
    }


def _model_paths() -> dict[str, Any]:
    name = {"name": "name", "in": "path", "required": True, "schema": TEXT}
    model = _get("model", "The model, by its name", {"200": _answered(ref("Model")), **_errors(404, 500)}, [name])
    models = _get("models", "The one model that is served", {"200": _answered(ref("Models")), **_errors(500)})
    embeddings = {"operationId": "embed", "summary": "Not on this server", "responses": _errors(404, 413, 503)}
    return {
        "/v1/models": models,
        "/v1/models/{name}": model,
        "/v1/embeddings": {"post": embeddings},
    }


def _server_paths() -> dict[str, Any]:
    status = _answered(ref("Status"))
    no = {**status, "description": "No; the status says why."}
    states = {"200": {**status, "description": "Yes."}, **_errors(500), "503": no}
    text = {"description": "Counts and times.", "content": {"text/plain": {"schema": TEXT}}}
    return {
        "/health": _get("health", "Whether the engine lives; a dead one needs a new process", states),
        "/ready": _get("ready", "Whether requests are taken", states),
        "/metrics": _get("metrics", "Metrics for Prometheus", {"200": text, **_errors(500)}),
    }


def _post(name: str, summary: str, bodies: Mapping[str, Schema], responses: Mapping[str, Any]) -> dict[str, Any]:
    content = {kind: {"schema": schema} for kind, schema in bodies.items()}
    body = {"required": True, "content": content}
    return {"post": {"operationId": name, "summary": summary, "requestBody": body, "responses": responses}}


def _get(
    name: str, summary: str, responses: Mapping[str, Any], parameters: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    return {"get": {"operationId": name, "summary": summary, "parameters": list(parameters), "responses": responses}}


def _answered(schema: Schema, streams: bool = False) -> dict[str, Any]:
    content: dict[str, Any] = {_JSON: {"schema": schema}}
    if not streams:
        return {"description": "The answer.", "content": content}
    content["text/event-stream"] = {"schema": {}}  # OpenAPI 3.1 cannot say what an event is
    return {"description": f"The answer; with `stream` as server-sent events. {_STREAM}", "content": content}


def _errors(*statuses: int, body: str = "Error") -> dict[str, Any]:
    content = {_JSON: {"schema": ref(body)}}
    plain = {str(status): {"description": _ERRORS[status], "content": content} for status in statuses}
    return {
        status: {**error, "headers": _BUSY} if status in ("429", "503") else error for status, error in plain.items()
    }


def _locked(document: Document) -> Document:
    """The document of a server that asks for a key, except on a few paths."""
    paths = {
        path: item if path in OPEN_PATHS else {method: _with_key(path, item[method]) for method in item}
        for path, item in document["paths"].items()
    }
    return {**document, "paths": paths}


def _with_key(path: str, operation: Mapping[str, Any]) -> dict[str, Any]:
    refused = _errors(401, body="InvocationsError" if path == "/invocations" else "Error")
    return {**operation, "security": [{"bearer": []}], "responses": {**operation["responses"], **refused}}
