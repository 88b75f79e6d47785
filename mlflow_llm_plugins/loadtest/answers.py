"""Answers as their bytes come in: when the first token came, the gaps after it, the server's token counts.

The generator shares the cores with the server, so a stream is read with little work. Lines are cut from the bytes, and
a chunk is parsed as JSON only until the first one with content has come, and after that where one search in its bytes
finds something other than plain content: a finish reason, usage, an error, or an empty delta. Text cannot look like
that, as JSON escapes the quotes in it.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

from mlflow_llm_plugins.errors import LLMError

_NOT_PLAIN = re.compile(
    rb'"(?:finish_reason|usage)":\s*[^\sn]|"error"|"(?:content|text)":\s*(?:""|null)|"delta":\s*\{\s*\}|"choices":\s*\[\s*\]'
)
_DATA = b"data:"
_CONTENT_FIELDS = ("content", "reasoning_content", "reasoning", "tool_calls")  # the second and third as vLLM has them
_MALFORMED = "malformed answer"
_CODE = re.compile(r"[\w.-]{1,60}", re.ASCII)


class AnswerError(LLMError):
    """The server answered, but not with what was asked for; the message is the kind of failure."""


@dataclass(slots=True)
class Answer(ABC):
    """One answer; times are those that `feed` was given."""

    CONTENT_TYPE: ClassVar[str]

    status: int | None = None
    first: float | None = None
    last: float | None = None
    gaps: list[float] = field(default_factory=list)
    usage: Any = None  # as the server sent it

    @abstractmethod
    def feed(self, piece: bytes, at: float) -> None:
        """Take the next bytes.

        Raises:
            AnswerError: They are no part of a good answer.
        """

    @abstractmethod
    def end(self) -> None:
        """Take the end of the bytes.

        Raises:
            AnswerError: The answer is not whole.
        """

    def tokens(self, name: str) -> int | None:
        """A count of the usage, for example "completion_tokens"; None where the server sent none."""
        count = self.usage.get(name) if isinstance(self.usage, dict) else None
        return count if isinstance(count, int) else None


@dataclass(slots=True)
class WholeAnswer(Answer):
    """An answer in one piece, of OpenAI's shape or of a pyfunc model's."""

    CONTENT_TYPE: ClassVar[str] = "application/json"

    pieces: list[bytes] = field(default_factory=list)

    def feed(self, piece: bytes, at: float) -> None:
        """Keep the bytes for the end."""
        self.last = at
        self.pieces.append(piece)

    def end(self) -> None:
        """Look for the usage."""
        answer = _parsed(b"".join(self.pieces))
        if isinstance(answer, list) and len(answer) == 1:  # stock MLflow answers a chat with a list of one
            answer = answer[0]
        self.usage = answer.get("usage") if isinstance(answer, dict) else None


@dataclass(slots=True)
class StreamedAnswer(Answer):
    """An answer as server-sent events."""

    CONTENT_TYPE: ClassVar[str] = "text/event-stream"

    rest: bytes = b""  # of a line that is not complete
    latest: float | None = None  # chunk with content
    ended: bool = False

    def feed(self, piece: bytes, at: float) -> None:
        """Take the complete lines; what arrives together has the same time."""
        *lines, self.rest = (self.rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(_DATA):
                self._take(line[len(_DATA) :].strip(), at)

    def end(self) -> None:
        """Refuse streams that stop anywhere."""
        if not self.ended:
            raise AnswerError("cut off")
        if self.first is None:
            raise AnswerError("empty answer")

    def _take(self, data: bytes, at: float) -> None:
        if data == b"[DONE]":
            self.ended = True
            return
        self.last = at
        if self.first is None or _NOT_PLAIN.search(data):
            self._parse(data, at)
        else:
            self._content(at)

    def _content(self, at: float) -> None:
        if self.latest is None:
            self.first = at
        else:
            self.gaps.append(at - self.latest)
        self.latest = at

    def _parse(self, data: bytes, at: float) -> None:
        if data.startswith(b'{"error"'):  # before parsing: transformers does not escape what stands in it
            raise AnswerError(f"error in the stream{error_code(data)}")
        chunk = _parsed(data)
        if not isinstance(chunk, dict):
            raise AnswerError(_MALFORMED)
        if chunk.get("object") == "error" or chunk.get("error"):
            raise AnswerError(f"error in the stream{error_code(data)}")
        choices = _choices(chunk)
        if any(_has_content(choice) for choice in choices):
            self._content(at)
        # Not every server sends [DONE]: that of transformers ends with the finish reason.
        self.ended = self.ended or any(choice.get("finish_reason") for choice in choices)
        self.usage = chunk.get("usage") or self.usage


def error_code(body: bytes) -> str:
    """What an error's body says of its kind, after a space; empty where it says nothing.

    Only codes and the name of the field at fault: messages may hold the prompt.
    """
    try:
        answer = json.loads(body)
    except ValueError:
        return ""
    if not isinstance(answer, dict):
        return ""
    error = answer.get("error")
    error = error if isinstance(error, dict) else answer
    said = dict.fromkeys(error.get(key) for key in ("type", "code", "param", "error_code") if _is_code(error.get(key)))
    return "".join(f" {code}" for code in said)


def _is_code(value: object) -> bool:
    return isinstance(value, str) and _CODE.fullmatch(value) is not None


def _choices(chunk: dict[str, Any]) -> list[dict[str, Any]]:
    found = chunk.get("choices")
    return [choice for choice in found if isinstance(choice, dict)] if isinstance(found, list) else []


def _has_content(choice: dict[str, Any]) -> bool:
    delta = choice.get("delta")
    return bool(choice.get("text")) or (isinstance(delta, dict) and any(delta.get(name) for name in _CONTENT_FIELDS))


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise AnswerError(_MALFORMED) from error
