"""The probability of each option, from the alternatives to the token with which a written verdict begins."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any


def option_logprobs(content: str, logprobs: Any, labels: Sequence[str], field: str) -> tuple[float, ...] | None:
    """The log-probability of each label as the string of a field.

    None where there are no alternatives, where a token could begin two labels, or where a label is not among the
    alternatives: then nothing is known of it.

    Args:
        content: JSON with the field.
        logprobs: Of the tokens, in OpenAI's form for chats.
        labels: What the string can be.
        field: Its name.
    """
    try:
        found = _token_at_value(content.encode(), logprobs["content"], field)
        if found is None:
            return None
        before, alternatives = found
        ends = [json.dumps(label, ensure_ascii=False)[1:].encode() for label in labels]
        return _by_label(before, alternatives, ends)
    except (KeyError, TypeError, ValueError, AttributeError):  # of another form
        return None


def _token_at_value(content: bytes, tokens: Any, field: str) -> tuple[bytes, list[tuple[bytes, float]]] | None:
    """What the value's first token has before the value, and the alternatives to the token."""
    start = re.search(rb'"' + field.encode() + rb'"\s*:\s*"', content)
    if start is None or not b"".join(map(_bytes, tokens)).startswith(content):
        return None
    position = 0
    for token in tokens:
        text = _bytes(token)
        if position <= start.end() < position + len(text):
            before = text[: start.end() - position]
            return before, [(_bytes(other), _logprob(other)) for other in token["top_logprobs"]]
        position += len(text)
    return None


def _by_label(
    before: bytes, alternatives: Sequence[tuple[bytes, float]], ends: Sequence[bytes]
) -> tuple[float, ...] | None:
    """Sums of what begins each label; `ends` are the labels with the quote that ends them."""
    sums = [0.0] * len(ends)
    for text, logprob in alternatives:
        rest = text[len(before) :] if text.startswith(before) else b""
        meant = [index for index, end in enumerate(ends) if rest and (end.startswith(rest) or rest.startswith(end))]
        if len(meant) > 1:
            return None
        for index in meant:
            sums[index] += math.exp(logprob)
    return tuple(map(math.log, sums)) if all(sums) else None


def _bytes(token: Mapping[str, Any]) -> bytes:
    if "bytes" in token and (token["bytes"] is not None or token["token"].startswith("<")):
        return bytes(token["bytes"] or [])
    return str(token["token"]).encode()


def _logprob(token: Mapping[str, Any]) -> float:
    value = float(token["logprob"])
    if not value <= 1e-3:
        raise ValueError
    return value
