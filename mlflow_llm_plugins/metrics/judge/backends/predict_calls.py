"""Chats through `predict` of a client of `mlflow.deployments`."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mlflow_llm_plugins.errors import AccessDeniedError, EngineUnavailableError, InvalidInputError
from mlflow_llm_plugins.metrics.judge.backends.causes import causes_of, silence_of, status_of
from mlflow_llm_plugins.metrics.judge.backends.refusals import refusal_of
from mlflow_llm_plugins.metrics.judge.backends.retries import UnansweredError, with_retries
from mlflow_llm_plugins.metrics.judge.backends.settings import DeploymentSettings

_STATUSES = {  # of what clients raise, by MLflow's code
    "INVALID_PARAMETER_VALUE": 400,
    "BAD_REQUEST": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "RESOURCE_DOES_NOT_EXIST": 404,
    "RESOURCE_EXHAUSTED": 429,
    "REQUEST_LIMIT_EXCEEDED": 429,
    "INTERNAL_ERROR": 500,
    "TEMPORARILY_UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
_OF_ANYTHING = (None, 400, 500)  # as no client says that nobody answered


class PredictCalls:
    """Asks a deployment or an endpoint; as safe to use from several threads as the client is."""

    def __init__(
        self, client: Any, name: str, is_endpoint: bool, settings: DeploymentSettings, stopping: threading.Event
    ) -> None:
        """Begin.

        Args:
            client: Of `mlflow.deployments`.
            name: Of what is asked.
            is_endpoint: Whether that is an endpoint.
            settings: With the bounds of time.
            stopping: Ends tries when it is set.
        """
        self._client = client
        self._where = {"endpoint": name} if is_endpoint else {"deployment_name": name}
        self._settings = settings
        self._stopping = stopping

    def predict(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answer in OpenAI's shape; asked again, within the deadline, where that may help.

        Raises:
            UnansweredError: There is none.
            AccessDeniedError: The client may not ask.
            EngineUnavailableError: There is no server.
        """
        try:
            return with_retries(lambda: self._try(body), lambda _: self._settings.deadline_s, self._stopping)
        except UnansweredError as error:
            if error.status in (401, 403):
                raise AccessDeniedError(f"{self._shown}: {error}. It does not let this client in.") from None
            if error.status == 404:
                raise InvalidInputError(f"{self._shown}: {error}. Does it exist?") from None
            if error.is_unreached or error.status == 503:
                raise EngineUnavailableError(f"{self._shown}: {error}. Is it running?") from None
            raise

    def _try(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        handled = sys.exc_info()[1]
        try:
            answer = self._client.predict(inputs=dict(body), **self._where)
        except Exception as error:
            raise _unanswered(error, handled) from None
        return _as_chat(answer)

    @property
    def _shown(self) -> str:
        return "judge: " + " ".join(f"{what}={name!r}" for what, name in self._where.items())


def _as_chat(answer: Any) -> Mapping[str, Any]:
    """OpenAI's answer, also where a model of another flavor gives a text a row."""
    if isinstance(answer, Mapping) and "choices" in answer:
        return answer
    texts = answer.get("predictions") if isinstance(answer, Mapping) else None
    if isinstance(texts, list) and len(texts) == 1 and isinstance(texts[0], str):
        return {"choices": [{"message": {"content": texts[0]}}]}
    raise UnansweredError("the judge's answer has another form than was asked for")


def _unanswered(error: Exception, handled: BaseException | None) -> UnansweredError:
    """Without the client's words, which may repeat the question.

    Where nobody answered, MLflow's client of gateways gives codes, too: BAD_REQUEST or INTERNAL_ERROR.
    """
    causes = list(causes_of(error, handled))
    status, code = status_of(causes), _STATUSES.get(str(getattr(error, "error_code", "")))
    if status is None and code in _OF_ANYTHING and (silence := silence_of(causes)) is not None:
        return silence
    status = status or code
    if status is None:
        return UnansweredError(f"the judge failed with {type(error).__name__}")
    told = refusal_of(_content(causes))
    refusal = replace(told, words=f"{told.words} {error}")
    return UnansweredError(f"the judge answered with HTTP status {status}", status=status, refusal=refusal)


def _content(causes: Sequence[BaseException]) -> bytes:
    """The body of the first answer among them."""
    contents = (getattr(getattr(cause, "response", None), "content", None) for cause in causes)
    return next((content for content in contents if isinstance(content, bytes)), b"")
