"""Answers of OpenAI's API, whole and in pieces."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from mlflow_llm_plugins.evaluation.predictions.failures import NoAnswerError
from mlflow_llm_plugins.evaluation.predictions.prediction import Prediction

_THOUGHTS = ("reasoning_content", "reasoning")  # generated tokens as well, though not of the answer


def is_completion(answer: object) -> bool:
    """Whether it is the answer to a chat or a completion."""
    return isinstance(answer, Mapping) and isinstance(answer.get("choices"), list) and bool(answer["choices"])


def read_completion(answer: Mapping[str, Any]) -> Prediction:
    """The text of the first choice, and the usage.

    Raises:
        NoAnswerError: It has no text, for example where a tool is called.
    """
    choice = answer["choices"][0]
    message = choice.get("message") if isinstance(choice, Mapping) else None
    text = message.get("content") if isinstance(message, Mapping) else _field(choice, "text")
    if not isinstance(text, str):
        raise NoAnswerError("the answer has no text")
    return Prediction(output=text, **_tokens(answer))


def read_stream(chunks: Iterable[Mapping[str, Any]], started: float) -> Prediction:
    """The text of a stream, with the time of each piece; tokens are counted by the usage alone.

    Args:
        chunks: In the shape of OpenAI's API.
        started: `time.perf_counter()` when the request was sent.

    Raises:
        NoAnswerError: The stream reports an error, or has no text.
    """
    texts: list[str] = []
    times: list[float] = []
    tokens: dict[str, Any] = {}
    for chunk in chunks:
        if not isinstance(chunk, Mapping) or chunk.get("error"):
            raise NoAnswerError("the endpoint reported an error while it streamed")
        text, is_token = _piece(chunk)
        if is_token:
            times.append(time.perf_counter() - started)
        if text is not None:
            texts.append(text)
        tokens = _tokens(chunk) if chunk.get("usage") else tokens
    if not texts and not tokens:
        raise NoAnswerError("the answer has no text")
    latency = time.perf_counter() - started if not times else times[-1]
    return Prediction(output="".join(texts), latency=latency, token_times=tuple(times), **tokens)


def _piece(chunk: Mapping[str, Any]) -> tuple[str | None, bool]:
    """The answer's next text, and whether the chunk brings any generated text; empty ones open and close streams."""
    choices = chunk.get("choices") or [{}]
    choice = choices[0] if isinstance(choices, list) else {}
    delta = _field(choice, "delta")
    text = _field(delta, "content") if isinstance(delta, Mapping) else _field(choice, "text")
    is_token = bool(text) or any(_field(delta, name) for name in _THOUGHTS)
    return (text if isinstance(text, str) else None), is_token


def _tokens(answer: Mapping[str, Any]) -> dict[str, Any]:
    """What the usage says, as fields of `Prediction`."""
    usage = answer.get("usage")
    counts = {name: _field(usage, name) for name in ("prompt_tokens", "completion_tokens")}
    return {name: count for name, count in counts.items() if isinstance(count, int)}


def _field(value: object, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else None
