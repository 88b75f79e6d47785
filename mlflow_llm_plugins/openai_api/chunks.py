"""Answers in pieces, in the shapes of OpenAI's API; how they travel is somebody else's business."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

from mlflow_llm_plugins.openai_api.answers import new_id, usage
from mlflow_llm_plugins.openai_api.choices import ChatChoice, Choice, CompletionChoice
from mlflow_llm_plugins.openai_api.echo import Echo
from mlflow_llm_plugins.openai_api.generated import Generated
from mlflow_llm_plugins.openai_api.responses import ResponseParsing, ResponseReader
from mlflow_llm_plugins.openai_api.token_texts import TokenTexts

Chunk = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Chunks(ABC):
    """Builds the chunks of one answer; all of them carry the same id."""

    OBJECT: ClassVar[str]

    model: str
    include_usage: bool = False  # the stream ends with the usage, and every other chunk has a null there
    id: str = field(default_factory=partial(new_id, "cmpl"))
    created: int = field(default_factory=lambda: int(time.time()))  # seconds since 1970
    token_texts: TokenTexts | None = field(default=None, kw_only=True)  # where log-probabilities were asked for

    @abstractmethod
    def choice(self, index: int) -> Choice:
        """What turns the tokens of choice `index` into chunks."""

    @abstractmethod
    def opening(self, index: int) -> list[Chunk]:
        """What comes before the first text of choice `index`."""

    @abstractmethod
    def delta(self, index: int, text: str, logprobs: Mapping[str, Any] | None = None) -> Chunk:
        """The next piece of text of choice `index`."""

    @abstractmethod
    def finish(self, index: int, finish_reason: str, logprobs: Mapping[str, Any] | None = None) -> Chunk:
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
    """The chunks of a chat: the role first, as OpenAI's clients expect, then the parts, then the finish reason."""

    OBJECT: ClassVar[str] = "chat.completion.chunk"

    id: str = field(default_factory=partial(new_id, "chatcmpl"))
    parsing: ResponseParsing | None = field(default=None, kw_only=True)  # None: all is content

    def choice(self, index: int) -> ChatChoice:
        """What turns the tokens of choice `index` into chunks."""
        reader = None if self.parsing is None else ResponseReader(self.parsing)
        return ChatChoice(self, index, self.token_texts, reader)

    def opening(self, index: int) -> list[Chunk]:
        """The role."""
        return [self.choice_delta(index, {"role": "assistant", "content": ""})]

    def delta(self, index: int, text: str, logprobs: Mapping[str, Any] | None = None) -> Chunk:
        """The next piece of text of choice `index`."""
        return self.choice_delta(index, {"content": text}, logprobs)

    def finish(self, index: int, finish_reason: str, logprobs: Mapping[str, Any] | None = None) -> Chunk:
        """The end of choice `index`."""
        return self.choice_delta(index, {}, logprobs, finish_reason)

    def choice_delta(
        self,
        index: int,
        delta: Mapping[str, Any],
        logprobs: Mapping[str, Any] | None = None,
        finish_reason: str | None = None,
    ) -> Chunk:
        """What is new in the message of choice `index`."""
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return self._chunk([choice])


@dataclass(frozen=True, slots=True)
class CompletionChunks(Chunks):
    """The chunks of a completion: the prompt where it is echoed, text, then the finish reason."""

    OBJECT: ClassVar[str] = "text_completion"

    echoes: Sequence[Echo] = field(default=(), kw_only=True)  # one for each choice, where the request asks for them

    def choice(self, index: int) -> CompletionChoice:
        """What turns the tokens of choice `index` into chunks."""
        return CompletionChoice(self, index, self.token_texts, self.echoes[index] if self.echoes else None)

    def opening(self, index: int) -> list[Chunk]:
        """Nothing: a completion has no role."""
        return []

    def delta(self, index: int, text: str, logprobs: Mapping[str, Any] | None = None) -> Chunk:
        """The next piece of text of choice `index`."""
        return self._choice(index, text, logprobs)

    def finish(self, index: int, finish_reason: str, logprobs: Mapping[str, Any] | None = None) -> Chunk:
        """The end of choice `index`."""
        return self._choice(index, "", logprobs, finish_reason)

    def _choice(
        self, index: int, text: str, logprobs: Mapping[str, Any] | None, finish_reason: str | None = None
    ) -> Chunk:
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}
        return self._chunk([choice])
