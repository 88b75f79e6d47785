"""Control tokens that stand in what users write: encoded as ordinary text, so that nobody can end a turn.

Before a chat is rendered, marks are put around them; what the template writes itself has none. What stands between
marks is encoded by the model of the vocabulary alone, which knows no added tokens. Ids are those of transformers 5.23
(`sanitize_control_tokens=True`), except that special tokens are marked in the keys of dictionaries as well: users
choose the names of a tool's parameters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from functools import lru_cache
from typing import Any

from tokenizers import Tokenizer

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.quantized_llm.file_tokenizer.environment import literal_text

_START, _END = "\U000f0000", "\U000f0001"  # for private use: no text means anything by them
_RECENT = 16  # templates for which the pattern is kept

Encode = Callable[[str], list[int]]


class ControlTokens:
    """Keeps the control tokens of one tokenizer out of messages; safe to use from many threads."""

    def __init__(self, backend: Tokenizer, named: Collection[str] | None, encode: Encode) -> None:
        """Take a tokenizer that no longer changes.

        Args:
            backend: With all its added tokens.
            named: Added tokens that are control tokens besides special ones; None: those that the template writes.
            encode: Text to ids, control tokens as such, without start tokens.
        """
        self._backend = backend
        self._added = tuple(backend.get_added_tokens_decoder().values())
        self._named = named
        self._encode = encode
        contents = [token.content for token in self._added]
        self._marks = re.compile(f"{_START}({_any_of(contents)}){_END}|[{_START}{_END}]")
        self._newline = encode("\n")
        self._special = re.compile(_any_of(token.content for token in self._added if token.special))
        self._pattern = lru_cache(_RECENT)(self._pattern_of)

    def mark(self, value: Any, template: str) -> Any:
        """The same strings, lists and dictionaries with marks around control tokens.

        Args:
            value: What a user wrote: messages, tools, variables.
            template: What is rendered; which tokens control a chat depends on it.
        """
        return self._marked(value, self._pattern(template))

    def encode(self, chat: str) -> list[int]:
        """Token ids of a chat that was rendered from marked input.

        Templates can part the two marks of a token, for example by `split`. A lone mark is dropped, and the texts on
        its sides are encoded apart, so that they cannot join to a control token.

        Raises:
            InvalidInputError: The vocabulary writes a control token that a user gave as that same token.
        """
        first, *others = self._marks.split(chat)  # text, token, text, ...; None is the token of a lone mark
        ids = self._encode(first)
        for token, text in zip(others[::2], others[1::2], strict=True):
            ids += self._as_text(token) if token else []
            ids += self._within(text, self._encode) if text else []
        return ids

    def _marked(self, value: Any, pattern: re.Pattern[str]) -> Any:
        if isinstance(value, str):
            return _mark(value, pattern)
        if isinstance(value, dict):
            # in keys only special tokens: templates look up by names that may be other added tokens
            return {self._marked(key, self._special): self._marked(item, pattern) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._marked(item, pattern) for item in value]
        return value

    def _as_text(self, token: str) -> list[int]:
        ids = self._within(token, self._encode_plain)
        if self._backend.token_to_id(token) in ids:
            raise InvalidInputError(
                f"The control token {token!r} stands in a text, and the tokenizer cannot write it as ordinary text. "
                "Leave it out."
            )
        return ids

    def _within(self, text: str, encode: Encode) -> list[int]:
        """Ids of a text that is not the first: behind a newline, as some tokenizers put a space before the first."""
        ids = encode("\n" + text)
        length = len(self._newline)
        return ids[length:] if ids[:length] == self._newline else encode(text)

    def _encode_plain(self, text: str) -> list[int]:
        backend = self._backend
        if backend.normalizer is not None:
            text = backend.normalizer.normalize_str(text)
        words = [text]
        if backend.pre_tokenizer is not None:
            words = [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)]
        return [token.id for word in words for token in backend.model.tokenize(word)]

    def _pattern_of(self, template: str) -> re.Pattern[str]:
        named = self._named
        if named is None:  # blanks such as Gemma's "\n" are ordinary text of templates
            written = literal_text(template)
            named = {token.content for token in self._added if token.content in written and token.content.strip()}
        controls = [token.content for token in self._added if token.special or token.content in named]
        return re.compile(_any_of(controls))


def _any_of(tokens: Iterable[str]) -> str:
    """Longer ones first: a token goes before those within it."""
    return "|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or "(?!)"


def _mark(text: str, pattern: re.Pattern[str]) -> str:
    unmarked = text.replace(_START, "").replace(_END, "")  # or a user could forge marks
    return pattern.sub(rf"{_START}\g<0>{_END}", unmarked)
