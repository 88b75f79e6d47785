"""Finished answers in the shapes of OpenAI's API."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any

from mlflow_llm_plugins.openai_api.echo import Echo
from mlflow_llm_plugins.openai_api.generated import Generated, scored_tokens
from mlflow_llm_plugins.openai_api.logprobs import chat_logprobs, chat_row
from mlflow_llm_plugins.openai_api.responses import Part, ResponseParsing, finish_reason_of
from mlflow_llm_plugins.openai_api.token_texts import TokenTexts

_ids = random.Random()  # uuid4 asks the system each time, which a server feels; nobody else's seed moves this one


def new_id(prefix: str) -> str:
    """An id that no other answer has, for example `chatcmpl-5e...`."""
    return f"{prefix}-{_ids.getrandbits(128):032x}"


def chat_completion(
    model: str,
    choices: Sequence[Generated],
    *,
    token_texts: TokenTexts | None = None,
    parsing: ResponseParsing | None = None,
) -> dict[str, Any]:
    """A `chat.completion`.

    Args:
        model: The name that the answer carries.
        choices: All answers to the one conversation.
        token_texts: Where the request asks for log-probabilities: the answer has them.
        parsing: How to read the answers; None where all is content.
    """
    return {
        "id": new_id("chatcmpl"),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [_chat_choice(index, choice, token_texts, parsing) for index, choice in enumerate(choices)],
        "usage": usage([choices]),
    }


def text_completion(
    model: str,
    choices: Sequence[Sequence[Generated]],
    *,
    token_texts: TokenTexts | None = None,
    echoes: Sequence[Echo] | None = None,
) -> dict[str, Any]:
    """A `text_completion`.

    Args:
        model: The name that the answer carries.
        choices: For each prompt all answers to it; they are numbered through, as OpenAI does.
        token_texts: Where the request asks for log-probabilities: the answer has them.
        echoes: One for each prompt, where the request asks for them: its answers begin with it.
    """
    pairs = [
        (echo, choice)
        for echo, of_one_prompt in zip(echoes or [Echo("")] * len(choices), choices, strict=True)
        for choice in of_one_prompt
    ]
    return {
        "id": new_id("cmpl"),
        "object": "text_completion",
        "created": int(time.time()),
        "model": model,
        "choices": [_text_choice(index, echo, choice, token_texts) for index, (echo, choice) in enumerate(pairs)],
        "usage": usage(choices),
    }


def usage(choices: Sequence[Sequence[Generated]]) -> dict[str, Any]:
    """Token counts of a request; a prompt counts once however many answers it got, as its first answer found it.

    Without details where the engine does not know what it found in its cache.
    """
    prompt_tokens = sum(of_one_prompt[0].prompt_tokens for of_one_prompt in choices)
    completion_tokens = sum(choice.completion_tokens for of_one_prompt in choices for choice in of_one_prompt)
    counts = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
    found = [of_one_prompt[0].cached_tokens for of_one_prompt in choices]
    cached = [tokens for tokens in found if tokens is not None]
    return {**counts, "prompt_tokens_details": {"cached_tokens": sum(cached)}} if len(cached) == len(found) else counts


def _chat_choice(
    index: int, choice: Generated, token_texts: TokenTexts | None, parsing: ResponseParsing | None
) -> dict[str, Any]:
    parts = [Part("content", choice.text)] if parsing is None else parsing.read(choice)
    message = _message(parts)
    logprobs = None
    if token_texts is not None:
        logprobs = chat_logprobs(chat_row(token_texts, token) for token in scored_tokens(choice))
    return {
        "index": index,
        "message": message,
        "logprobs": logprobs,
        "finish_reason": finish_reason_of(choice.finish_reason, has_calls="tool_calls" in message),
    }


def _message(parts: Sequence[Part]) -> dict[str, Any]:
    content = "".join(part.text for part in parts if part.field == "content")
    reasoning = "".join(part.text for part in parts if part.field == "reasoning_content")
    calls = [part.call for part in parts if part.call is not None]
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message |= {"content": content or None, "tool_calls": calls}
    return message


def _text_choice(index: int, echo: Echo, choice: Generated, token_texts: TokenTexts | None) -> dict[str, Any]:
    text = echo.text + choice.text
    logprobs = None
    if token_texts is not None:
        rows = echo.rows(token_texts)
        rows.add(scored_tokens(choice))
        logprobs = rows.take(len(text))
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": choice.finish_reason}
