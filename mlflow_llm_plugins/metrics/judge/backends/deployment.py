"""A deployment or an endpoint as a judge, through whatever client of `mlflow.deployments` the target has.

A quantized LLM on this machine is asked for typed decisions at the address that its client tells, with the key from
the file that it names. All others, and endpoints that share out their traffic, are asked by `predict`, for a verdict
as JSON. `predict` takes a body and a name: what would need more than these is refused there.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError, LLMError, UnsupportedFeatureError
from mlflow_llm_plugins.metrics.judge.backends.chat import ChatForm
from mlflow_llm_plugins.metrics.judge.backends.predict_calls import PredictCalls
from mlflow_llm_plugins.metrics.judge.backends.rows_in_flight import RowsInFlight
from mlflow_llm_plugins.metrics.judge.backends.server import ServerJudge
from mlflow_llm_plugins.metrics.judge.backends.server_url import without_key
from mlflow_llm_plugins.metrics.judge.backends.settings import DeploymentSettings
from mlflow_llm_plugins.metrics.judge.question import Opinion, Question

TARGET = "MLFLOW_DEPLOYMENTS_TARGET"
_DEFAULT_TARGET = "local"
_FLAVOR = "quantized_llm"
_ENDPOINTS = "endpoints"
_BY_PREDICT = "chat"  # the only route there
_OF_SERVERS = ("model", "api_key_env", "api_key_file", "connect_timeout_s", "timeout_s")  # they need an address
_WHO_DECIDES = "MLflow's own by MLFLOW_DEPLOYMENT_PREDICT_TIMEOUT and MLFLOW_HTTP_REQUEST_MAX_RETRIES"

_logger = logging.getLogger(__name__)


class DeploymentJudge:
    """Asks a deployment or an endpoint by its name."""

    def __init__(self, uri: str, **settings: Any) -> None:
        """Check what was given; nothing is looked up yet.

        Args:
            uri: `deployments:/name` or `endpoints:/name`.
            **settings: See `DeploymentSettings`.

        Raises:
            InvalidInputError: There is no name, or a setting cannot be used.
        """
        kind, _, name = uri.partition(":/")
        self._kind, self._name = kind.lower(), name.strip("/")
        if not self._name:
            raise InvalidInputError(f"judge={uri!r} names no deployment. Write it as '{self._kind}:/name'.")
        self._settings = DeploymentSettings.parse(settings, "judge")
        self._target = without_key(self._settings.target or os.environ.get(TARGET) or _DEFAULT_TARGET, "target")
        self._rows = RowsInFlight(self._settings.max_in_flight, self._settings.max_unanswered)
        self._form = ChatForm(self._settings.max_tokens)
        self._asked: ServerJudge | PredictCalls | None = None

    def ask(self, questions: Sequence[Question], *, rationale: bool = False, progress: bool = True) -> list[Opinion]:
        """One opinion a question, in order; see `JudgeBackend`.

        Raises:
            InvalidInputError: There is no such target, deployment or endpoint.
            UnsupportedFeatureError: It is asked by `predict`, which cannot keep one of the settings.
            AccessDeniedError: The key is refused, or its file cannot be read.
            EngineUnavailableError: It does not answer.
        """
        asked = self._found()
        if isinstance(asked, ServerJudge):
            return asked.ask(questions, rationale=rationale, progress=progress)
        return self._rows.ask(partial(self._opinion, asked, rationale=rationale), questions, progress)

    def check(self) -> None:
        """Look the deployment or endpoint up, and its server where its address is known; no question is asked.

        Raises:
            InvalidInputError: There is no such target, deployment or endpoint.
            UnsupportedFeatureError: It is asked by `predict`, which cannot keep one of the settings.
            AccessDeniedError: The key is refused, or its file cannot be read.
            EngineUnavailableError: There is no server.
        """
        asked = self._found()
        if isinstance(asked, ServerJudge):
            asked.check()

    def describe(self) -> Mapping[str, Any]:
        """Target, name and settings, and how it is asked, once that is known."""
        found = {"backend": "deployment", "uri": f"{self._kind}:/{self._name}", "target": self._target, "server": None}
        if isinstance(self._asked, PredictCalls):
            return {**self._settings.model_dump(exclude=set(_OF_SERVERS)), **found, "route": _BY_PREDICT}
        server = None if self._asked is None else dict(self._asked.describe())
        return {**self._settings.model_dump(), **found, "server": server}

    def close(self) -> None:
        """Close the connections."""
        if isinstance(self._asked, ServerJudge):
            self._asked.close()
        self._asked = None

    def _found(self) -> ServerJudge | PredictCalls:
        if self._asked is None:
            self._asked = self._find()
        return self._asked

    def _find(self) -> ServerJudge | PredictCalls:
        from mlflow.deployments import get_deploy_client

        try:
            client = get_deploy_client(self._target)
        except Exception as error:  # an unknown target; of a plugin anything
            raise InvalidInputError(
                f"judge: the deployments target {self._target!r} cannot be used: {error} Set {TARGET}, or `target`."
            ) from error
        described = self._described(client)
        if described.get("flavor") == _FLAVOR and described.get("url"):
            return ServerJudge(f"{described['url']}/v1", **self._server_settings(described))
        if described.get("flavor") != _FLAVOR:  # one of ours that does not run says so when it is asked
            self._check_kept()
        return PredictCalls(client, self._name, self._kind == _ENDPOINTS, self._settings, self._rows.stopping)

    def _check_kept(self) -> None:
        """That `predict` can keep what was set; a deadline it keeps in part."""
        given = self._settings.model_dump(exclude_unset=True, exclude_none=True)
        where = f"judge: {self._kind}:/{self._name} is asked by `predict` of target {self._target!r}, which"
        if (route := given.get("route", _BY_PREDICT)) != _BY_PREDICT:
            raise UnsupportedFeatureError(
                f"{where} has chats alone, not route={route!r}. Leave it out, or name one deployment of the flavor "
                f"{_FLAVOR}, as 'deployments:/name'."
            )
        if unkept := [name for name in _OF_SERVERS if name in given]:
            raise UnsupportedFeatureError(
                f"{where} takes no {', '.join(unkept)}. Leave that out: its client decides ({_WHO_DECIDES})."
            )
        if "deadline_s" in given:
            _logger.warning(
                "%s bounds a try itself (%s): deadline_s=%g bounds when the last try begins.",
                where,
                _WHO_DECIDES,
                self._settings.deadline_s,
            )

    def _described(self, client: Any) -> Mapping[str, Any]:
        """What the client tells of the one deployment that answers; nothing where there are several."""
        name = self._name
        try:
            if self._kind == _ENDPOINTS:
                names = _with_traffic(client.get_endpoint(name))
                if len(names) != 1:
                    return {}
                name = names[0]
            described = client.get_deployment(name)
        except NotImplementedError:
            return {}
        except Exception as error:
            if isinstance(error, LLMError):
                raise
            raise InvalidInputError(
                f"judge: {self._kind}:/{self._name} of target {self._target!r}: {error}"
            ) from error
        return described if isinstance(described, Mapping) else {}

    def _server_settings(self, described: Mapping[str, Any]) -> dict[str, Any]:
        settings = self._settings.model_dump(exclude={"target"}, exclude_unset=True)
        if "api_key_env" not in settings and described.get("api_key_file"):
            settings.setdefault("api_key_file", described["api_key_file"])
        return settings

    def _opinion(self, calls: PredictCalls, question: Question, rationale: bool) -> Opinion:
        answer = self._form.answered(calls.predict, partial(self._form.body, question, rationale), question)
        return self._form.read(question, answer, rationale)


def _with_traffic(endpoint: Any) -> list[str]:
    """Names of the deployments under an endpoint that get requests, where the client tells."""
    traffic = endpoint.get("traffic") if isinstance(endpoint, Mapping) else getattr(endpoint, "traffic", None)
    return [name for name, share in traffic.items() if share] if isinstance(traffic, Mapping) else []
