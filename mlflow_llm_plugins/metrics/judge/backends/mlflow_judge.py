"""Any judge that MLflow can ask: `openai:/...`, `anthropic:/...`, `ollama:/...`, `gateway:/...`, `typesafe:/...`.

Asked through `invoke_judge_model`, which is the same from MLflow 3.11 to 3.17 and takes a schema and a number of
retries; judges that MLflow asks for typed decisions (`typesafe:/` and some endpoints behind `gateway:/`) are reached
by `make_judge` alone, which tries ten times again. MLflow does not check an answer against the schema; this does.

MLflow bounds one try by MLFLOW_GATEWAY_ROUTE_TIMEOUT_SECONDS (300), and once a provider it looks for a catalog of
models on the internet, which takes seconds without one: set MLFLOW_MODEL_CATALOG_URI to an empty string.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from mlflow_llm_plugins.errors import AccessDeniedError, EngineUnavailableError, InvalidInputError
from mlflow_llm_plugins.metrics.judge.backends.chat import in_json
from mlflow_llm_plugins.metrics.judge.backends.questions import sendable, state_of
from mlflow_llm_plugins.metrics.judge.backends.refusals import Refusal
from mlflow_llm_plugins.metrics.judge.backends.retries import UnansweredError
from mlflow_llm_plugins.metrics.judge.backends.rows_in_flight import RowsInFlight
from mlflow_llm_plugins.metrics.judge.backends.server_url import without_key
from mlflow_llm_plugins.metrics.judge.backends.settings import MlflowSettings, without_secrets
from mlflow_llm_plugins.metrics.judge.backends.verdicts import NoOpinionError, opinion_of, option_index, shares_of
from mlflow_llm_plugins.metrics.judge.question import Opinion, Question

_OF_DECISIONS = ("typesafe", "gateway")
_PROBABILITIES = "typesafe.probabilities"  # in the metadata of a feedback, as JSON
_DENIED = (401, 403)
_LONGEST = 300  # characters of a message of MLflow
_NAME = "verdict"
_RESULT = "result"  # MLflow reads this and `rationale`


def providers() -> list[str]:
    """What MLflow has providers for."""
    from mlflow.gateway.provider_registry import provider_registry

    return sorted({*(str(getattr(key, "value", key)) for key in provider_registry.keys()), "gateway"})  # noqa: SIM118


def is_askable(scheme: str) -> bool:
    """Whether MLflow's judges know the provider; with litellm installed they know more than they tell."""
    from importlib.util import find_spec

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

    def ask(self, questions: Sequence[Question], *, rationale: bool = False, progress: bool = True) -> list[Opinion]:
        """One opinion a question, in order; see `JudgeBackend`.

        Raises:
            InvalidInputError: MLflow does not know the model, or lacks a setting for it, such as the key.
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
        try:
            feedback = self._feedback(question, rationale)
        except Exception as error:
            raise _failure(error, question, self._uri) from None
        choice = option_index(feedback.value, question)
        words = feedback.rationale if rationale else None
        shares = (feedback.metadata or {}).get(_PROBABILITIES)
        if shares is None:
            return Opinion(choice=choice, rationale=words)
        return opinion_of(shares_of(json.loads(shares), [option.label for option in question.options]), choice)

    def _feedback(self, question: Question, rationale: bool) -> Any:
        ask = self._by_judge if self._uri.partition(":")[0] in _OF_DECISIONS else self._by_chat
        try:
            return ask(question, rationale)
        except Exception as error:
            if self._settings.inference_params is not None or not _refuses_temperature(error, question):
                raise
            self._params = {}
            return ask(question, rationale)

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

    def _by_judge(self, question: Question, rationale: bool) -> Any:
        from mlflow.genai.judges import make_judge

        judge = make_judge(
            name=_NAME,
            instructions=f"{_untemplated(question.instructions)}\n\nWhat is judged is in {{{{ inputs }}}}",
            model=self._uri,
            feedback_value_type=_labels(question),
            inference_params=self._params or None if self._uri.startswith("gateway") else None,
            base_url=self._settings.base_url,
        )
        return judge(inputs=state_of(question))


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
    """Without what `make_judge` would take for a variable and refuse."""
    return sendable(text).replace("{{", "{ {").replace("}}", "} }")


def _refuses_temperature(error: BaseException, question: Question) -> bool:
    causes = list(_causes(error))
    words = " ".join(map(str, causes))
    return _status(causes) == 400 and Refusal(words=words).names("temperature", question.text())


def _failure(error: Exception, question: Question, uri: str) -> Exception:
    """What went wrong, without MLflow's words where these may hold the question, as many do."""
    causes = list(_causes(error))
    status = _status(causes)
    if status in _DENIED:
        return AccessDeniedError(f"judge={uri!r}: the key is refused (HTTP status {status}). Set the provider's key.")
    if status is not None:
        return UnansweredError(f"the judge answered with HTTP status {status}", status=status)
    kinds = {base.__name__ for cause in causes for base in type(cause).__mro__}
    if "Timeout" in kinds or "timed out" in str(error):
        return UnansweredError("the judge did not answer in time", is_transient=True)
    if "ConnectionError" in kinds:
        return EngineUnavailableError(f"judge={uri!r} cannot be reached. Is its server running?")
    if len(causes) == 1 and "MlflowException" in kinds and not _holds(str(error), question):  # before any request
        return InvalidInputError(f"judge={uri!r}: {' '.join(str(error).split())[:_LONGEST]}")
    return NoOpinionError(f"the judge's answer cannot be read ({type(causes[-1]).__name__})")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _status(causes: Sequence[BaseException]) -> int | None:
    for cause in causes:
        response = getattr(cause, "response", None)
        status = getattr(cause, "status_code", None) or getattr(response, "status_code", None)
        if isinstance(status, int):
            return status
    return None


def _holds(message: str, question: Question) -> bool:
    """Whether a message repeats anything of what is judged."""
    return any(word in message for section in question.sections for word in section.text.split() if len(word) > 3)
