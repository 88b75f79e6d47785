"""What a judge is asked about one row, and what it answers: plain values between the judge and its backends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

ScaleKind = Literal["score", "choice", "yes_no"]


@dataclass(frozen=True, slots=True)
class Option:
    """One verdict that may be given."""

    label: str  # what the judge answers: "4", "Yes", "Correct but short"
    description: str = ""  # when to give it
    value: float | None = None  # what it counts in the score; None: choices without an order


@dataclass(frozen=True, slots=True)
class Section:
    """A part of what is judged, disarmed already."""

    name: str  # "question", "answer", "reference answer", "context"
    text: str


@dataclass(frozen=True, slots=True)
class Question:
    """One row and the options; `instructions`, `nonce` and `reminder` are the same for all rows of a run."""

    instructions: str  # criteria, rubric, options with descriptions, examples: what all rows share, so it comes first
    sections: tuple[Section, ...]
    nonce: str  # delimits the sections
    reminder: str  # after the sections, short: what to answer with
    options: tuple[Option, ...]  # in the order in which the instructions list them
    kind: ScaleKind

    def text(self) -> str:
        """The whole question, as one message of a user: instructions, delimited sections, reminder."""
        parts = [f"<{section.name} {self.nonce}>\n{section.text}\n</{section.name} {self.nonce}>"
                 for section in self.sections]  # fmt: skip
        return "\n\n".join([self.instructions, *parts, self.reminder])


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a backend found for one question; either an error, or a choice and what it knows besides."""

    choice: int | None = None  # index into `options`; None: the error says why
    logprobs: tuple[float, ...] | None = None  # of each option, natural; None: the backend tells none
    rationale: str | None = None  # the judge's words, where asked for
    error: str | None = None  # without the row's text, keys or traces
    choice_mass: float | None = None  # probability of any option at all; None: what `logprobs` add up to
    is_normalised: bool = False  # `logprobs` add up to one whatever else the judge wanted to say, so tell no mass


class JudgeBackend(Protocol):
    """Something that can be asked; rows may be asked together, and one that fails leaves the others alone.

    Two methods more are used where a backend has them: `check()` raises an `LLMError` if nothing can be asked, before
    rows are answered; `control_tokens()` gives what the judge's tokenizer would take for control tokens.
    """

    def ask(self, questions: Sequence[Question], *, rationale: bool = False, progress: bool = True) -> list[Opinion]:
        """One opinion a question, in order; blocks; never raises for one row.

        Raises:
            LLMError: Nothing can be asked at all: no such model, no key, no server.
        """

    def describe(self) -> Mapping[str, Any]:
        """Model and settings as JSON, so that a score can be reproduced; no keys. More may be known after `ask`."""

    def close(self) -> None:
        """Free what was opened."""
