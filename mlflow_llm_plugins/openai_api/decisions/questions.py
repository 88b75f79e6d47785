"""A decision request as values, whichever way it came over the wire."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlflow_llm_plugins.openai_api.decisions.labels import QuestionType, question_labels


@dataclass(frozen=True, slots=True)
class Option:
    """One of the answers that a question allows."""

    value: Any  # what an answer names: True or False, a choice, a level as it was given
    text: str = ""  # what the prompt says of it; empty where the label alone says it


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question with a finite set of answers."""

    name: str | None  # by which the caller knows it
    type: QuestionType
    instructions: str  # may be empty
    options: tuple[Option, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """What the model is told to answer, one label an option."""
        return question_labels(self.type, len(self.options))


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRequest:
    """Several questions about one state."""

    state: str  # what is judged
    state_title: str  # what instructions call it
    questions: tuple[Question, ...]


def option_text(name: str, description: str) -> str:
    """What the prompt says of an option that has a name and may have a description."""
    return f"{name}: {description}" if description else name
