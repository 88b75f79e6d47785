r"""The `logprobs` of requests and answers: chats have a row for each token, completions a column for each property.

An answer has one entry for each generated token, in order, whatever of it is in the text:

- The bytes of all tokens, one after the other, are the text. Where a stop string cut it, they go on behind it.
- An end token and other special tokens have no bytes (null), and their name for a text.
- A part of a character is written `\xe2`, as OpenAI does; a completion puts `bytes:` before it.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Mapping
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.openai_api.fields import boolean, integer, wrong
from mlflow_llm_plugins.openai_api.generated import ScoredToken
from mlflow_llm_plugins.openai_api.token_texts import TokenTexts

MOST_LOGPROBS = 20  # OpenAI's own bound for chats

_LEAST = -9999.0  # OpenAI's number for what cannot be; JSON has no infinity


def parse_chat_logprobs(raw: Mapping[str, Any]) -> int | None:
    """How many best tokens a chat asks for at each place; None where it asks for no log-probabilities.

    Raises:
        InvalidInputError: A value of the wrong type or out of range, or `top_logprobs` alone.
    """
    asked = raw.get("logprobs") is not None and boolean("logprobs", raw["logprobs"])
    count = _count("top_logprobs", raw["top_logprobs"]) if raw.get("top_logprobs") is not None else 0
    if count and not asked:
        raise InvalidInputError(f"top_logprobs={count} needs logprobs=true.", param="top_logprobs")
    return count if asked else None


def parse_completion_logprobs(raw: Mapping[str, Any]) -> int | None:
    """The same of a completion, where the number itself is called `logprobs`; false asks for nothing."""
    value = raw.get("logprobs")
    return None if value is None or value is False else _count("logprobs", value)


def chat_logprobs(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The `logprobs` of a choice of a chat."""
    return {"content": list(rows), "refusal": None}


def chat_row(texts: TokenTexts, token: ScoredToken) -> dict[str, Any]:
    """One token of a chat."""
    best = [_named(texts, token_id, logprob) for token_id, logprob in token.top_logprobs]
    return {**_named(texts, token.token_id, token.logprob), "top_logprobs": best}


class CompletionRows:
    """The tokens of one choice of a completion, and where in its text each begins; belongs to one thread."""

    def __init__(self, texts: TokenTexts, position: int = 0) -> None:
        """Begin at a position of the text, in characters."""
        self._texts = texts
        self._position = position
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rows: list[tuple[int, ScoredToken]] = []

    def add(self, tokens: Iterable[ScoredToken]) -> None:
        """Add the next tokens; one within a character begins where the character does."""
        for token in tokens:
            self._rows.append((self._position, token))
            self._position += len(self._decoder.decode(self._texts[token.token_id].bytes or b""))

    def take(self, end: int) -> dict[str, list[Any]]:
        """What was added since the last call; nothing begins behind `end`, the length of the text so far."""
        rows, self._rows = self._rows, []
        return {
            "tokens": [self._name(token.token_id) for _, token in rows],
            "token_logprobs": [None if token.logprob is None else _finite(token.logprob) for _, token in rows],
            "top_logprobs": [self._best(token) for _, token in rows],
            "text_offset": [max(0, min(position, end)) for position, _ in rows],
        }

    def _best(self, token: ScoredToken) -> dict[str, float] | None:
        """With the token itself, as OpenAI does; of two that are written alike the more probable one."""
        if token.logprob is None:
            return None
        best: dict[str, float] = {}
        for token_id, logprob in [*token.top_logprobs, (token.token_id, token.logprob)]:
            best.setdefault(self._name(token_id), _finite(logprob))
        return best

    def _name(self, token_id: int) -> str:
        text = self._texts[token_id]
        return text.name if text.is_whole else f"bytes:{text.name}"


def _count(name: str, value: object) -> int:
    count = integer(name, value)
    if not 0 <= count <= MOST_LOGPROBS:
        raise wrong(name, f"from 0 to {MOST_LOGPROBS}", value)
    return count


def _named(texts: TokenTexts, token_id: int, logprob: float | None) -> dict[str, Any]:
    text = texts[token_id]
    content = None if text.bytes is None else list(text.bytes)
    return {"token": text.name, "logprob": None if logprob is None else _finite(logprob), "bytes": content}


def _finite(logprob: float) -> float:
    return logprob if logprob > _LEAST else _LEAST
