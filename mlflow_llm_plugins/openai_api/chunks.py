"""Answers in pieces, in the shapes of OpenAI's API; how they travel is somebody else's business."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

from mlflow_llm_plugins.openai_api.answers import Generated, new_id, usage

Chunk = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Chunks(ABC):
    """Builds the chunks of one answer; all of them carry the same id."""

    OBJECT: ClassVar[str]

    model: str
    include_usage: bool = False  # the stream ends with the usage, and every other chunk has a null there
    id: str = field(default_factory=partial(new_id, "cmpl"))
    created: int = field(default_factory=lambda: int(time.time()))  # seconds since 1970

    @abstractmethod
    def opening(self, index: int) -> list[Chunk]:
        """What comes before the first text of choice `index`."""

    @abstractmethod
    def delta(self, index: int, text: str) -> Chunk:
        """The next piece of text of choice `index`."""

    @abstractmethod
    def finish(self, index: int, finish_reason: str) -> Chunk:
        """The end of choice `index`."""

    def closing(self, choices: Sequence[Sequence[Generated]]) -> list[Chunk]:
        """What comes after the last choice: the usage, where the request asked for it."""
        return [{**self._chunk([]), "usage": usage(choices)}] if self.include_usage else []

    def _chunk(self, choices: list[dict[str, Any]]) -> Chunk:
        chunk = {
            "id": self.id,
            "object": self.OBJECT,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }
        return {**chunk, "usage": None} if self.include_usage else chunk


@dataclass(frozen=True, slots=True)
class ChatChunks(Chunks):
    """The chunks of a chat: the role first, as OpenAI's clients expect, then text, then the finish reason."""

    OBJECT: ClassVar[str] = "chat.completion.chunk"

    id: str = field(default_factory=partial(new_id, "chatcmpl"))

    def opening(self, index: int) -> list[Chunk]:
        """The role."""
        return [self._choice(index, {"role": "assistant", "content": ""})]

    def delta(self, index: int, text: str) -> Chunk:
        """The next piece of text of choice `index`."""
        return self._choice(index, {"content": text})

    def finish(self, index: int, finish_reason: str) -> Chunk:
        """The end of choice `index`."""
        return self._choice(index, {}, finish_reason)

    def _choice(self, index: int, delta: dict[str, str], finish_reason: str | None = None) -> Chunk:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._chunk([choice])


@dataclass(frozen=True, slots=True)
class CompletionChunks(Chunks):
    """The chunks of a completion: text, then the finish reason."""

    OBJECT: ClassVar[str] = "text_completion"

    def opening(self, index: int) -> list[Chunk]:
        """Nothing: a completion has no role."""
        return []

    def delta(self, index: int, text: str) -> Chunk:
        """The next piece of text of choice `index`."""
        return self._choice(index, text)

    def finish(self, index: int, finish_reason: str) -> Chunk:
        """The end of choice `index`."""
        return self._choice(index, "", finish_reason)

    def _choice(self, index: int, text: str, finish_reason: str | None = None) -> Chunk:
        choice = {"index": index, "text": text, "logprobs": None, "finish_reason": finish_reason}
        return self._chunk([choice])
