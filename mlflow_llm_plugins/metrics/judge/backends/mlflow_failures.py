"""What MLflow's judges raise, as our errors: whom a failure concerns, and what may be told of it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mlflow_llm_plugins.errors import AccessDeniedError, EngineUnavailableError
from mlflow_llm_plugins.metrics.judge.backends.causes import shown_of, silence_of, status_of
from mlflow_llm_plugins.metrics.judge.backends.refusals import Refusal
from mlflow_llm_plugins.metrics.judge.backends.retries import UnansweredError
from mlflow_llm_plugins.metrics.judge.backends.verdicts import NoOpinionError
from mlflow_llm_plugins.metrics.judge.question import Question

_DENIED = (401, 403)
_REFUSED = re.compile(r"TypeSafe evaluation failed with HTTP (\d{3})\.")  # MLflow 3.17 keeps that status nowhere else
_LONGEST = 300  # characters of a message of MLflow


def refuses_temperature(causes: Sequence[BaseException], question: Question) -> bool:
    """Whether the provider takes no temperature."""
    words = " ".join(map(str, causes))
    return status_of(causes) == 400 and Refusal(words=words).names("temperature", question.text())


def failure_of(causes: Sequence[BaseException], question: Question, uri: str) -> Exception:
    """What went wrong, without MLflow's words where these may hold the question, as many do."""
    status = _status(causes)
    if status in _DENIED:
        return AccessDeniedError(f"judge={uri!r}: the key is refused (HTTP status {status}). Set the provider's key.")
    if status is not None:
        return UnansweredError(f"the judge answered with HTTP status {status}", status=status)
    silence = silence_of(causes)
    if silence is not None and silence.is_unreached:
        return EngineUnavailableError(f"judge={uri!r} cannot be reached. Is its server running?")
    if silence is not None:
        return silence
    if is_of_mlflow_alone(causes) and not _holds(str(causes[0]), question):
        return NoOpinionError(f"judge={uri!r}: {cut(str(causes[0]))}")
    return NoOpinionError(f"the judge's answer cannot be read ({type(shown_of(causes)[-1]).__name__})")


def _status(causes: Sequence[BaseException]) -> int | None:
    told = _REFUSED.match(str(causes[0]))
    return int(told[1]) if told else status_of(causes)


def is_of_mlflow_alone(causes: Sequence[BaseException]) -> bool:
    """Whether MLflow raised it in words of its own, as it does of settings, and of some answers."""
    is_wrapped = len(shown_of(causes)) > 1
    is_told = _status(causes) is None and silence_of(causes) is None and not is_wrapped
    return is_told and any(base.__name__ == "MlflowException" for base in type(causes[0]).__mro__)


def cut(message: str) -> str:
    """One line, of a length that fits a table."""
    return " ".join(message.split())[:_LONGEST]


def _holds(message: str, question: Question) -> bool:
    """Whether a message repeats anything of what is judged."""
    return any(word in message for section in question.sections for word in section.text.split() if len(word) > 3)
