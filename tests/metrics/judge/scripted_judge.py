"""A judge whose opinions a test decides, and which remembers what it was asked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlflow_llm_plugins.metrics.judge.question import Opinion, Question


class ScriptedJudge:
    """Implements `JudgeBackend` with a function of one question."""

    def __init__(self, opinion: Callable[[Question], Opinion], control_tokens: Sequence[str] = ()) -> None:
        self.asked: list[list[Question]] = []  # the questions of each call
        self.rationales: list[bool] = []
        self.closed = False
        self._opinion = opinion
        self._control_tokens = control_tokens

    def ask(self, questions: Sequence[Question], *, rationale: bool = False, progress: bool = True) -> list[Opinion]:
        self.asked.append(list(questions))
        self.rationales.append(rationale)
        return [self._opinion(question) for question in questions]

    def control_tokens(self) -> Sequence[str]:
        return self._control_tokens

    def describe(self) -> Mapping[str, Any]:
        return {"kind": "scripted"}

    def close(self) -> None:
        self.closed = True


def section(question: Question, name: str) -> str:
    """The text of a section."""
    return next(section.text for section in question.sections if section.name == name)


def certain(question: Question, label: str, **more: Any) -> Opinion:
    """An opinion with nearly all probability on a label, wherever that is listed."""
    labels = [option.label for option in question.options]
    logprobs = tuple(math.log(0.96) if each == label else math.log(0.01) for each in labels)
    return Opinion(choice=labels.index(label), logprobs=logprobs, **more)


def probable(question: Question, probabilities: Mapping[str, float]) -> Opinion:
    """An opinion with these unnormalised probabilities."""
    logprobs = tuple(math.log(probabilities[option.label]) for option in question.options)
    return Opinion(choice=logprobs.index(max(logprobs)), logprobs=logprobs)
