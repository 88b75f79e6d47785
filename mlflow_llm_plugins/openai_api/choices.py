"""One choice of an answer, in pieces: from an engine's tokens to chunks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from mlflow_llm_plugins.openai_api.echo import Echo
from mlflow_llm_plugins.openai_api.generated import GeneratedToken, ScoredToken
from mlflow_llm_plugins.openai_api.logprobs import chat_logprobs, chat_row
from mlflow_llm_plugins.openai_api.responses import Part, ResponseReader, finish_reason_of
from mlflow_llm_plugins.openai_api.token_texts import TokenTexts

if TYPE_CHECKING:
    from mlflow_llm_plugins.openai_api.chunks import ChatChunks, Chunk, CompletionChunks


class Choice(ABC):
    """Call `opening`, `push` for each token and `finish`, and send what they return; belongs to one thread.

    A token whose text is not certain yet gives no chunk; its log-probability comes with the next one.
    """

    @abstractmethod
    def opening(self) -> list[Chunk]:
        """What comes before the first token."""

    @abstractmethod
    def push(self, token: GeneratedToken) -> list[Chunk]:
        """What became certain with a token."""

    @abstractmethod
    def finish(self, finish_reason: str) -> list[Chunk]:
        """What was held back, and the end."""


class ChatChoice(Choice):
    """A choice of a chat: reasoning, content and calls, in the order of the answer."""

    def __init__(
        self, chunks: ChatChunks, index: int, token_texts: TokenTexts | None, reader: ResponseReader | None
    ) -> None:
        """Begin a choice; the arguments are explained at `ChatChunks`."""
        self._chunks = chunks
        self._index = index
        self._texts = token_texts
        self._reader = reader
        self._rows: list[dict[str, Any]] = []
        self._calls = 0

    def opening(self) -> list[Chunk]:
        """The role."""
        return self._chunks.opening(self._index)

    def push(self, token: GeneratedToken) -> list[Chunk]:
        """The parts that became certain."""
        if self._texts is not None:
            self._rows.append(chat_row(self._texts, ScoredToken.of(token)))
        if self._reader is not None:
            return [self._part(part) for part in self._reader.push(token.token_id, token.text)]
        return [self._part(Part("content", token.text))] if token.text else []

    def finish(self, finish_reason: str) -> list[Chunk]:
        """The last parts and the finish reason: `tool_calls` after calls."""
        parts = [self._part(part) for part in self._reader.finish()] if self._reader is not None else []
        reason = finish_reason_of(finish_reason, has_calls=self._calls > 0)
        return [*parts, self._chunks.finish(self._index, reason, self._logprobs())]

    def _part(self, part: Part) -> Chunk:
        if part.call is None:
            return self._chunks.choice_delta(self._index, {part.field: part.text}, self._logprobs())
        self._calls += 1
        call = {"index": self._calls - 1, **part.call}
        return self._chunks.choice_delta(self._index, {part.field: [call]}, self._logprobs())

    def _logprobs(self) -> dict[str, Any] | None:
        if self._texts is None:
            return None
        rows, self._rows = self._rows, []
        return chat_logprobs(rows)


class CompletionChoice(Choice):
    """A choice of a completion, after its prompt where that is echoed."""

    def __init__(
        self, chunks: CompletionChunks, index: int, token_texts: TokenTexts | None, echo: Echo | None
    ) -> None:
        """Begin a choice; the arguments are explained at `CompletionChunks`."""
        self._chunks = chunks
        self._index = index
        self._echo = echo or Echo("")
        self._rows = None if token_texts is None else self._echo.rows(token_texts)
        self._length = 0  # of the text so far

    def opening(self) -> list[Chunk]:
        """The prompt."""
        return [self._text(self._echo.text)] if self._echo.text or self._echo.tokens else []

    def push(self, token: GeneratedToken) -> list[Chunk]:
        """The text that became certain."""
        if self._rows is not None:
            self._rows.add([ScoredToken.of(token)])
        return [self._text(token.text)] if token.text else []

    def finish(self, finish_reason: str) -> list[Chunk]:
        """The finish reason."""
        return [self._chunks.finish(self._index, finish_reason, self._logprobs())]

    def _text(self, text: str) -> Chunk:
        self._length += len(text)
        return self._chunks.delta(self._index, text, self._logprobs())

    def _logprobs(self) -> dict[str, Any] | None:
        return None if self._rows is None else self._rows.take(self._length)
