"""Answers of chats, read back: what is reasoning, what is content, which tools are called.

Where a tokenizer says how its model writes (`response_template`, of transformers), its own parser reads the answer
token by token, so that an answer in chunks has the same parts as one at once:

- Text is a part as soon as it cannot be a mark; a call is one when it is complete.
- White space around a text is dropped, and special tokens within it.
- From where the parser fails, or finds a call that is none or was not asked for, all is content as it was written.
"""

from __future__ import annotations

import codecs
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from typing_extensions import Self

from mlflow_llm_plugins.openai_api.generated import Generated
from mlflow_llm_plugins.openai_api.marked_text import MarkedText
from mlflow_llm_plugins.openai_api.token_texts import TokenTexts
from mlflow_llm_plugins.openai_api.tool_calls import ToolCall, tool_calls
from mlflow_llm_plugins.openai_api.tools import Tool

_logger = logging.getLogger(__name__)

_REASONING = ("reasoning_content", "thinking", "reasoning")  # the names that transformers' own server takes

TextField = Literal["content", "reasoning_content"]


class Part(NamedTuple):
    """A piece of one of an answer's texts, or a whole call."""

    field: TextField | Literal["tool_calls"]  # of a message
    text: str = ""
    call: ToolCall | None = None


@dataclass(frozen=True, slots=True)
class ResponseParsing:
    """How the answers to one prompt are read."""

    tokenizer: Any
    texts: TokenTexts
    prompt_ids: Sequence[int]  # an answer may begin within what the template wrote, for example "<think>"
    tools: Sequence[Tool] = ()
    max_calls: int | None = None  # those behind them are left out; None: all are told

    @classmethod
    def of(
        cls,
        tokenizer: Any,
        texts: TokenTexts,
        prompt_ids: Sequence[int],
        tools: Sequence[Tool] = (),
        max_calls: int | None = None,
    ) -> Self | None:
        """None where the tokenizer does not say how its model writes: all of an answer is content then."""
        if getattr(tokenizer, "response_template", None) is None or not hasattr(tokenizer, "get_response_parser"):
            return None
        return cls(tokenizer, texts, prompt_ids, tools, max_calls)

    def read(self, answer: Generated) -> list[Part]:
        """The parts of a finished answer."""
        reader = ResponseReader(self)
        pieces = self._pieces(answer)
        parts = [part for token_id, text in pieces for part in reader.push(token_id, text)]
        return [*parts, *reader.finish()]

    def _pieces(self, answer: Generated) -> Iterator[tuple[int, str]]:
        """Each token with its share of the text; the text may end earlier, at a stop string."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        rest = answer.text
        for token_id in answer.token_ids[:-1]:
            width = len(decoder.decode(self.texts[token_id].bytes or b""))
            yield token_id, rest[:width]
            rest = rest[width:]
        for token_id in answer.token_ids[-1:]:
            yield token_id, rest


class ResponseReader:
    """Reads one answer while it is made; belongs to one thread."""

    def __init__(self, parsing: ResponseParsing) -> None:
        """Begin where the prompt ends."""
        self._calls_are_wanted = bool(parsing.tools)
        self._calls_left = sys.maxsize if parsing.max_calls is None else parsing.max_calls
        self._marked = MarkedText(parsing.texts)
        self._unread = ""  # what was written since the last part
        self._has_parts = False
        self._trimmed = {"content": _Trimmed(), "reasoning_content": _Trimmed()}
        self._parser = _parser(parsing)  # None: all is content as it was written

    def push(self, token_id: int, text: str) -> list[Part]:
        """Add a token, and the text that became certain with it; the parts that are certain now."""
        marked = self._marked.push(token_id, text)
        self._unread += text
        return self._as_written() if self._parser is None else self._read(lambda: self._parser.feed(marked))

    def finish(self) -> list[Part]:
        """The parts that were held back, now that nothing follows."""
        parts = self._as_written() if self._parser is None else self._read(lambda: self._parser.finalize()[1])
        return parts if self._has_parts else self._as_written()  # a template may have no place for plain text

    def _read(self, events: Callable[[], Sequence[Mapping[str, Any]]]) -> list[Part]:
        """What the events of transformers' `ResponseParser` tell, as far as they can be read."""
        parts: list[Part] = []
        try:
            for event in events():
                parts += self._parts_of(event)
        except Exception as error:  # parsers of regions raise what they like
            _logger.debug("An answer cannot be read to its end: %s.", type(error).__name__)
            self._parser = None
            return [*parts, *self._as_written()]
        return parts

    def _parts_of(self, event: Mapping[str, Any]) -> list[Part]:
        if event["field"] != "tool_calls":
            return self._text(event["field"], event["text"]) if event["type"] == "region_chunk" else []
        if event["type"] != "region_close":
            return []
        if not self._calls_are_wanted:
            raise ValueError("the request has no tools")
        calls = [Part("tool_calls", call=call) for call in tool_calls(event["value"])][: self._calls_left]
        self._calls_left -= len(calls)
        self._note_read("")
        return calls

    def _text(self, field: str, text: str) -> list[Part]:
        for mark in self._marked.marks:
            text = text.replace(mark, "")
        own: TextField = "reasoning_content" if field in _REASONING else "content"
        text = self._trimmed[own].push(text)
        if not text:
            return []
        self._note_read(text)
        return [Part(own, text)]

    def _note_read(self, text: str) -> None:
        self._has_parts = True
        self._unread = self._unread.rpartition(text)[2] if text and text in self._unread else ""

    def _as_written(self) -> list[Part]:
        text, self._unread = self._unread, ""
        self._has_parts = self._has_parts or bool(text)
        return [Part("content", text)] if text else []


def finish_reason_of(finish_reason: str, has_calls: bool) -> str:
    """An answer that ends with calls waits for their results; one that was cut does not."""
    return "tool_calls" if has_calls and finish_reason == "stop" else finish_reason


class _Trimmed:
    """A text without the white space around it, piece by piece."""

    def __init__(self) -> None:
        self._has_begun = False
        self._held = ""

    def push(self, piece: str) -> str:
        text = self._held + piece
        kept = text.rstrip()
        self._held = text[len(kept) :]
        text = kept if self._has_begun else kept.lstrip()
        self._has_begun = self._has_begun or bool(kept)
        return text


def _parser(parsing: ResponseParsing) -> Any:
    tokenizer = parsing.tokenizer
    try:
        prompt = tokenizer.decode(
            list(parsing.prompt_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return tokenizer.get_response_parser(prefix=prompt, tools=list(parsing.tools) or None)
    except Exception as error:  # of a template that is wrong, or that this prompt does not fit
        _logger.debug("The response template cannot be used: %s.", type(error).__name__)
        return None
