"""Questions as a model reads them: in its chat template, tokenised, with the options as what may follow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mlflow_llm_plugins.metrics.judge.backends.local.chat import ChatWriter
from mlflow_llm_plugins.metrics.judge.backends.local.choice_ids import ChoiceWriter
from mlflow_llm_plugins.metrics.judge.disarming import is_generic
from mlflow_llm_plugins.metrics.judge.question import Question


@dataclass(frozen=True, slots=True)
class Prepared:
    """One question as token ids: `stem`, and a tail for each option; or why it cannot be asked."""

    stem: list[int] = field(default_factory=list)
    tails: list[list[int]] = field(default_factory=list)
    fault: str | None = None


class Reader:
    """Prepares the questions of one call."""

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        """Take the judge's tokenizer, which is not changed, and its context in tokens."""
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._chat = ChatWriter(tokenizer)
        self._choices = ChoiceWriter(self._encode, tokenizer, self._chat.end_of_turn)
        self._controls = _control_ids(tokenizer)
        self._expected: dict[Question, Counter[int]] = {}

    def prepare(self, questions: Sequence[Question]) -> list[Prepared]:
        """Token ids of each question.

        Raises:
            InvalidInputError: The chat template refuses a message of the user, or opens a thought that it cannot
                close; or the tokenizer cannot write the options so that they differ.
        """
        if not questions:
            return []
        rendered = [self._chat.write(question.text()) for question in questions]
        encoded = self._encode(rendered)
        return [self._prepared(*row) for row in zip(questions, rendered, encoded, strict=True)]

    def _prepared(self, question: Question, rendered: str, ids: list[int]) -> Prepared:
        if self._controls_of(ids) != self._controls_of_empty(question):
            return Prepared(fault="its text has control tokens of the judge's tokenizer that cannot be disarmed")
        if len(ids) >= self._max_length:
            return self._too_long(len(ids) + 1)
        labels = [f"{self._chat.lead}{option.label}" for option in question.options]
        stem, tails = self._choices.write(rendered, ids, labels)
        length = len(stem) + max(map(len, tails))
        return self._too_long(length) if length > self._max_length else Prepared(stem, tails)

    def _too_long(self, length: int) -> Prepared:
        return Prepared(
            fault=f"with it the judge's prompt has {length} tokens, more than its context of {self._max_length}"
        )

    def _encode(self, texts: Iterable[str]) -> list[list[int]]:
        ids = self._tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return [[*self._chat.start, *of_text] for of_text in ids]

    def _controls_of(self, ids: Sequence[int]) -> Counter[int]:
        return Counter(token_id for token_id in ids if token_id in self._controls)

    def _controls_of_empty(self, question: Question) -> Counter[int]:
        """What template and instructions write by themselves; the texts of rows must add none."""
        empty = replace(question, sections=tuple(replace(section, text="") for section in question.sections))
        if empty not in self._expected:
            self._expected[empty] = self._controls_of(self._encode([self._chat.write(empty.text())])[0])
        return self._expected[empty]


def control_strings(tokenizer: Any) -> list[str]:
    """Special tokens, and added ones that part the messages of a chat.

    Other added tokens are ordinary text: words, blanks, and the HTML tags of which Gemma's vocabulary has many.
    """
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    special = {token.content for token in added if token.special}
    written = ChatWriter(tokenizer).around_messages() if len(special) < len(added) else ""
    marks = {token.content for token in added if _is_mark(token.content, written)}
    unknown = getattr(tokenizer, "unk_token", None)
    named = {token for token in tokenizer.all_special_tokens if token}
    return sorted((special | marks | named) - ({unknown} if unknown and unknown.isalnum() else set()))


def _control_ids(tokenizer: Any) -> frozenset[int]:
    """Without the unknown token, which also stands for characters that the vocabulary lacks."""
    ids = tokenizer.convert_tokens_to_ids(control_strings(tokenizer))
    return frozenset(ids) - {getattr(tokenizer, "unk_token_id", None), None}


def _is_mark(token: str, written: str) -> bool:
    """Whether a token that is not special parts messages nevertheless; one character cannot be disarmed."""
    plain = token.replace("\u2581", "").strip()  # SentencePiece's blank
    return len(plain) > 1 and not plain.isalnum() and (token in written or is_generic(token))
