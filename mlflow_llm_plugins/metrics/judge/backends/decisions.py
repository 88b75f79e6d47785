"""Typed decisions on the wire: what is asked, and probabilities of the options read from what comes back.

Two formats: System One (`/systemone`: ours, vLLM, llama.cpp, SGLang, Ollama) and OpenAI's Decisions (`/decisions`).
A question is of one of three types, whatever a format calls them: yes or no, a choice, a score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from mlflow_llm_plugins.metrics.judge.backends.questions import (
    described,
    is_ordered,
    sendable,
    state_of,
    yes_index,
)
from mlflow_llm_plugins.metrics.judge.backends.retries import UnansweredError
from mlflow_llm_plugins.metrics.judge.backends.verdicts import (
    NO_OPTION,
    NoOpinionError,
    opinion_of,
    option_index,
    shares_of,
)
from mlflow_llm_plugins.metrics.judge.question import Opinion, Option, Question

_NAME = "verdict"


class DecisionFormat(Protocol):
    """One wire format."""

    path: str

    def body(self, question: Question) -> dict[str, Any]:
        """The request, without the model."""

    def read(self, question: Question, answer: Any) -> Opinion:
        """The opinion.

        Raises:
            NoOpinionError: The answer is not one of the options.
            UnansweredError: It is no answer of this format.
        """


class SystemOne:
    """TypeSafe's format: questions by name, a state of any JSON."""

    path = "/systemone"

    def body(self, question: Question) -> dict[str, Any]:
        """The sections are the state, delimited as the instructions say."""
        asked = {**self._criteria(question), "instructions": sendable(question.instructions)}
        return {"state": state_of(question), "questions": {_NAME: asked}}

    def read(self, question: Question, answer: Any) -> Opinion:
        """See `DecisionFormat`; vLLM and our server also tell how likely any option was."""
        given = _inner(answer, "answers", _NAME)
        mass = _found(answer, "diagnostics", _NAME, "label_mass")
        yes = yes_index(question)
        if yes is not None:
            return _yes_no(_typed(given, "noul").get("noul"), yes, mass)
        if is_ordered(question):
            levels = list(map(str, range(len(question.options))))
            return opinion_of(shares_of(_typed(given, "score").get("probabilities"), levels), mass=mass)
        shares = shares_of(_typed(given, "choice").get("probabilities"), [o.label for o in question.options])
        return opinion_of(shares, option_index(given.get("choice"), question), mass)

    def _criteria(self, question: Question) -> dict[str, Any]:
        yes = yes_index(question)
        if yes is not None:
            criteria = _outcomes(question.options, yes)
            return {"type": "noul", **({"criteria": criteria} if criteria else {})}
        if is_ordered(question):
            return {"type": "score", "criteria": [sendable(described(option)) for option in question.options]}
        choices = {option.label: sendable(option.description) or None for option in question.options}
        return {"type": "choice", "criteria": choices}


class OpenAIDecisions:
    """OpenAI's format: a list of questions, an input of text."""

    path = "/decisions"

    def body(self, question: Question) -> dict[str, Any]:
        """The sections are the input."""
        asked = {"name": _NAME, "instructions": sendable(question.instructions), **self._options(question)}
        return {"input": state_of(question), "questions": [asked]}

    def read(self, question: Question, answer: Any) -> Opinion:
        """See `DecisionFormat`."""
        given = _inner(answer, "answers", 0)
        mass = _found(answer, "diagnostics", 0, "label_mass")
        if given.get("type") == "refusal":
            raise NoOpinionError("the judge refused to answer")
        yes = yes_index(question)
        if yes is not None:
            return _yes_no(_typed(given, "predicate").get("probability"), yes, mass)
        if is_ordered(question):
            levels = range(len(question.options))
            return opinion_of(_listed(_typed(given, "score"), levels), mass=mass)
        shares = _listed(_typed(given, "choice"), [option.label for option in question.options])
        return opinion_of(shares, option_index(given.get("choice"), question), mass)

    def _options(self, question: Question) -> dict[str, Any]:
        yes = yes_index(question)
        if yes is not None:  # there are no criteria; the instructions have the options, too
            return {"type": "predicate"}
        if is_ordered(question):
            return {"type": "score", "levels": [_entry("label", option) for option in question.options]}
        return {"type": "choice", "choices": [_entry("value", option) for option in question.options]}


def _entry(key: str, option: Option) -> dict[str, str]:
    description = {"description": sendable(option.description)} if option.description else {}
    return {key: option.label, **description}


def _outcomes(options: Sequence[Option], yes: int) -> dict[str, str]:
    texts = {"true": options[yes].description, "false": options[1 - yes].description}
    return {name: sendable(text) for name, text in texts.items() if text}


def _yes_no(probability: object, yes: int, mass: object) -> Opinion:
    if isinstance(probability, bool) or not isinstance(probability, int | float):
        raise NoOpinionError(NO_OPTION)
    shares = [probability, 1 - probability]
    return opinion_of(shares if yes == 0 else shares[::-1], mass=mass)


def _listed(given: Mapping[str, Any], values: Sequence[object]) -> list[Any]:
    """The probabilities of a list of values and probabilities."""
    entries = given.get("probabilities")
    rows = entries if isinstance(entries, list) and all(isinstance(row, Mapping) for row in entries) else []
    if [row.get("value") for row in rows] != list(values):
        raise NoOpinionError("the judge's probabilities are not those of the options")
    return [row.get("probability") for row in rows]


def _inner(answer: Any, *keys: str | int) -> Mapping[str, Any]:
    inner = _found(answer, *keys)
    if not isinstance(inner, Mapping):
        raise UnansweredError("the judge's answer has another form than was asked for")
    return inner


def _found(value: Any, *keys: str | int) -> Any:
    """What is inside, or None."""
    for key in keys:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _typed(given: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    if given.get("type") != kind:
        raise NoOpinionError("the judge's answer is to another type of question than was asked")
    return given
