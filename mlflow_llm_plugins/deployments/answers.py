"""What a server answers, as MLflow's clients expect it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow.deployments import PredictionsResponse


def predictions_of(answer: object) -> PredictionsResponse:
    """The answer in MLflow's form: whole, and with the key `predictions`.

    Args:
        answer: JSON. A completion keeps its `choices`, which judges read, and its texts become the predictions, one
            for each choice; None for one without text, such as a call of a tool.
    """
    from mlflow.deployments import PredictionsResponse

    completion = _unwrapped(answer)
    if _is_completion(completion):
        return PredictionsResponse({**completion, "predictions": [_text(choice) for choice in completion["choices"]]})
    is_whole = isinstance(answer, Mapping) and "predictions" in answer
    return PredictionsResponse(answer if is_whole else {"predictions": answer})


def _unwrapped(answer: object) -> Any:
    """Stock flavors, such as `transformers`, answer a chat with a list of one completion."""
    return answer[0] if isinstance(answer, list) and len(answer) == 1 else answer


def _is_completion(answer: Any) -> bool:
    choices = answer.get("choices") if isinstance(answer, Mapping) else None
    return isinstance(choices, list) and all(isinstance(choice, Mapping) for choice in choices)


def _text(choice: Mapping[str, Any]) -> str | None:
    message = choice.get("message")
    text = message.get("content") if isinstance(message, Mapping) else choice.get("text")
    return text if isinstance(text, str) else None
