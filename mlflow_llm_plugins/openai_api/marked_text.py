"""The text of an answer with its special tokens, which engines leave out, back in their places."""

from __future__ import annotations

import codecs
from collections import deque

from mlflow_llm_plugins.openai_api.token_texts import TokenTexts


class MarkedText:
    """Built as tokens and text arrive, the text as late as the engine likes; belongs to one thread."""

    def __init__(self, texts: TokenTexts) -> None:
        """Begin an answer."""
        self.marks: set[str] = set()  # the names of the special tokens so far
        self._texts = texts
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._written = 0  # characters of the tokens so far
        self._given = 0  # characters of the text so far
        self._waiting: deque[tuple[int, str]] = deque()  # marks that stand behind what was given, and where

    def push(self, token_id: int, text: str) -> str:
        """Add a token, and the text that became certain with it.

        Returns:
            That text and the marks within it. A mark comes when all that stands before it was given, so one behind
            a stop string never does.
        """
        token = self._texts[token_id]
        if token.bytes is None:
            self.marks.add(token.name)
            self._waiting.append((self._written, token.name))
        else:
            self._written += len(self._decoder.decode(token.bytes))
        return self._with_marks(text)

    def _with_marks(self, text: str) -> str:
        parts, start = [], self._given
        self._given += len(text)
        done = 0
        while self._waiting and self._waiting[0][0] <= self._given:
            place, mark = self._waiting.popleft()
            parts += [text[done : place - start], mark]
            done = max(done, place - start)
        return "".join([*parts, text[done:]])
