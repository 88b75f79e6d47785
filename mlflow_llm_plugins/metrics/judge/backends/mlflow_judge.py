"""Any judge that MLflow can ask: `openai:/...`, `anthropic:/...`, `ollama:/...`, `gateway:/...`, `typesafe:/...`.

Asked through `invoke_judge_model`, which is the same from MLflow 3.11 to 3.17 and takes a schema and a number of
retries. `make_judge` takes none, so what it calls for typed decisions is called here (`typesafe:/`, and some endpoints
behind `gateway:/`, since MLflow 3.17). MLflow does not check an answer against the schema; this does.

MLflow bounds one try by MLFLOW_GATEWAY_ROUTE_TIMEOUT_SECONDS (300), and once a provider it looks for a catalog of
models on the internet, which takes seconds without one: set MLFLOW_MODEL_CATALOG_URI to an empty string.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.metrics.judge.backends.causes import causes_of
from mlflow_llm_plugins.metrics.judge.backends.chat import in_json
from mlflow_llm_plugins.metrics.judge.backends.mlflow_failures import (
    cut,
    failure_of,
    is_of_mlflow_alone,
    refuses_temperature,
)
from mlflow_llm_plugins.metrics.judge.backends.questions import sendable, state_of
from mlflow_llm_plugins.metrics.judge.backends.rows_in_flight import RowsInFlight
from mlflow_llm_plugins.metrics.judge.backends.server_url import without_key
from mlflow_llm_plugins.metrics.judge.backends.settings import MlflowSettings, without_secrets
from mlflow_llm_plugins.metrics.judge.backends.verdicts import opinion_of, option_index, shares_of
from mlflow_llm_plugins.metrics.judge.question import Opinion, Question

_PROBABILITIES = "typesafe.probabilities"  # in the metadata of a feedback, as JSON
_PLAIN = "-"  # what is judged in a question of our own
_NAME = "verdict"
_RESULT = "result"  # MLflow reads this and `rationale`


def providers() -> list[str]:
    """What MLflow has providers for."""
    from mlflow.gateway.provider_registry import provider_registry

    return sorted({*(str(getattr(key, "value", key)) for key in provider_registry.keys()), "gateway"})  # noqa: SIM118


def is_askable(scheme: str) -> bool:
    """Whether MLflow's judges know the provider; with litellm installed they know more than they tell."""
    return scheme in providers() or find_spec("litellm") is not None


class MlflowJudge:
    """Asks through MLflow."""

    def __init__(self, uri: str, **settings: Any) -> None:
        """Check what was given; nothing is asked yet.

        Args:
            uri: `provider:/model`, or `databricks`.
            **settings: See `MlflowSettings`.

        Raises:
            InvalidInputError: A setting cannot be used.
        """
        self._uri = uri
        self._settings = MlflowSettings.parse(settings, "judge")
        without_key(self._settings.base_url or "", "base_url")
        params = self._settings.inference_params
        self._params: dict[str, Any] = {"temperature": 0.0} if params is None else dict(params)
        self._rows = RowsInFlight(self._settings.max_in_flight, self._settings.max_unanswered)
        self._is_sent = False  # a request went out once: what fails from now on concerns a row

    def ask(self, questions: Sequence[Question], *, rationale: bool = False, progress: bool = True) -> list[Opinion]:
        """One opinion a question, in order; see `JudgeBackend`.

        Raises:
            InvalidInputError: MLflow lacks a setting, such as the key, or fails in the same words on any question.
            AccessDeniedError: The key is refused.
            EngineUnavailableError: There is no server.
        """
        return self._rows.ask(partial(self._opinion, rationale=rationale), questions, progress)

    def describe(self) -> Mapping[str, Any]:
        """URI and settings; of headers and what else may be secret the names."""
        import mlflow

        return {
            **self._settings.model_dump(),
            "backend": "mlflow",
            "uri": self._uri,
            "base_url": self._settings.base_url and self._settings.base_url.partition("?")[0],
            "inference_params": without_secrets(self._params),
            "mlflow": mlflow.__version__,
        }

    def close(self) -> None:
        """Nothing was opened."""

    def _opinion(self, question: Question, rationale: bool) -> Opinion:
        handled = sys.exc_info()[1]
        try:
            feedback = self._feedback(question, rationale)
        except Exception as error:
            causes = list(causes_of(error, handled))
        else:
            self._is_sent = True
            return _opinion_in(feedback, question, rationale)
        if not self._is_sent and is_of_mlflow_alone(causes):
            self._check(str(causes[0]), question, rationale)
        self._is_sent = True
        raise failure_of(causes, question, self._uri)

    def _check(self, words: str, question: Question, rationale: bool) -> None:
        """Whether only this row fails: MLflow raises the same for a missing key and for an answer without choices.

        What it raises before any request it raises for a question of our own as well, and sends nothing.

        Raises:
            InvalidInputError: Our question fails in the same words.
        """
        try:
            self._feedback(_plain(question), rationale)
        except Exception as error:
            if str(error) == words:
                raise InvalidInputError(f"judge={self._uri!r}: {cut(words)}") from None

    def _feedback(self, question: Question, rationale: bool) -> Any:
        ask = _ROUTES.get(self._uri.partition(":")[0], MlflowJudge._by_chat)
        handled = sys.exc_info()[1]
        try:
            return ask(self, question, rationale)
        except Exception as error:
            if self._settings.inference_params is not None or not refuses_temperature(
                list(causes_of(error, handled)), question
            ):
                raise
        self._params = {}
        return ask(self, question, rationale)

    def _by_chat(self, question: Question, rationale: bool) -> Any:
        from mlflow.genai.judges.utils import invoke_judge_model
        from mlflow.types.llm import ChatMessage

        return invoke_judge_model(
            self._uri,
            [ChatMessage(role="user", content=sendable(f"{question.text()}\n{in_json(_RESULT, rationale)}"))],
            _NAME,
            num_retries=self._settings.num_retries,
            response_format=_schema(question, rationale),
            inference_params=self._params or None,
            base_url=self._settings.base_url,
        )

    def _by_decision(self, question: Question, rationale: bool) -> Any:
        from mlflow.genai.judges.typesafe import _invoke_typesafe_judge

        return _invoke_typesafe_judge(self._uri, **self._decision(question))

    def _by_gateway(self, question: Question, rationale: bool) -> Any:
        """By chat, or by a typed decision where the endpoint has nothing else."""
        chat = partial(self._by_chat, question, rationale)
        if find_spec("mlflow.genai.judges.structured_judge") is None:  # before MLflow 3.17 there are chats alone
            return chat()
        from mlflow.genai.judges.structured_judge import _invoke_gateway_judge

        return _invoke_gateway_judge(self._uri, chat_invoker=chat, **self._decision(question))

    def _decision(self, question: Question) -> dict[str, Any]:
        return {
            "instructions": f"{_untemplated(question.instructions)}\n\nWhat is judged is in {{{{ inputs }}}}",
            "state": {"inputs": state_of(question)},
            "feedback_value_type": _labels(question),
            "assessment_name": _NAME,
            "num_retries": self._settings.num_retries,
            "base_url": self._settings.base_url,
            "inference_params": self._settings.inference_params,  # which MLflow refuses, in its words
        }


_ROUTES: dict[str, Callable[[MlflowJudge, Question, bool], Any]] = {  # by scheme; all others chat
    "typesafe": MlflowJudge._by_decision,
    "gateway": MlflowJudge._by_gateway,
}


def _opinion_in(feedback: Any, question: Question, rationale: bool) -> Opinion:
    choice = option_index(feedback.value, question)
    words = feedback.rationale if rationale else None
    shares = (feedback.metadata or {}).get(_PROBABILITIES)
    if shares is None:
        return Opinion(choice=choice, rationale=words)
    return opinion_of(shares_of(json.loads(shares), [option.label for option in question.options]), choice)


def _plain(question: Question) -> Question:
    """The same question about nothing."""
    return replace(question, sections=tuple(replace(section, text=_PLAIN) for section in question.sections))


def _labels(question: Question) -> Any:
    return Literal[tuple(option.label for option in question.options)]


def _schema(question: Question, rationale: bool) -> Any:
    """What MLflow reads, as a model of pydantic."""
    import pydantic

    fields: dict[str, Any] = {_RESULT: (_labels(question), ...)}
    if rationale:
        fields["rationale"] = (str, pydantic.Field(description="One or two sentences on the result."))
    return pydantic.create_model("Verdict", **fields)


def _untemplated(text: str) -> str:
    """Without what MLflow would take for a variable, and refuse."""
    return sendable(text).replace("{{", "{ {").replace("}}", "} }")
