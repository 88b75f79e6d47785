"""Why a row has no answer, in words that never repeat the row."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from mlflow_llm_plugins.errors import LLMError
from mlflow_llm_plugins.evaluation.predictions.prediction import Prediction

_logger = logging.getLogger(__name__)


class NoAnswerError(Exception):
    """What came back holds no answer; the message is the reason."""


def attempt(ask: Callable[[], Prediction], row: int) -> Prediction:
    """What `ask` returns, or a prediction with the reason why it failed."""
    try:
        return ask()
    except Exception as error:  # of any model: one row must not end the others
        _logger.debug("Row %d has no answer.", row, exc_info=True)
        return Prediction(error=reason_of(error))


def reason_of(error: BaseException) -> str:
    """Our own errors in full, since they never hold texts; of others, which may quote the row, the type and code."""
    for known in (error, error.__cause__):
        if isinstance(known, LLMError | NoAnswerError):
            return str(known)
    code = getattr(error, "error_code", None) or _status(error) or _status(error.__cause__)
    return f"the model raised {type(error).__name__}" + (f" ({code})" if code else "")


def _status(error: Any) -> Any:
    """The HTTP status of an error of `requests`."""
    return getattr(getattr(error, "response", None), "status_code", None)
