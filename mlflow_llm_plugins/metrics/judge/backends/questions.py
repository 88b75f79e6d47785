"""A question in the parts that wire formats have: texts that JSON can carry, what is judged, ordered levels."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from mlflow_llm_plugins.metrics.judge.question import Option, Question

MOST_LEVELS = 10  # of a score, with the servers that we know


def sendable(text: str) -> str:
    """The text without halves of surrogate pairs, which servers refuse."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def state_of(question: Question) -> str:
    """What is judged, between the delimiters that the instructions speak of."""
    return sendable(replace(question, instructions="", reminder="").text().strip())


def described(option: Option) -> str:
    """The label, and when to give it."""
    return f"{option.label}: {option.description}" if option.description else option.label


def yes_index(question: Question) -> int | None:
    """Which option means yes, if the question is one of yes and no."""
    if question.kind != "yes_no" or len(question.options) != 2:
        return None
    values = [option.value for option in question.options]
    return 1 if values == [0, 1] else 0


def is_ordered(question: Question) -> bool:
    """Whether the options can be the levels of a score, which servers number from 0, lowest first.

    Where labels are numbers other than these, as in 1 to 5, a judge that has read them in the instructions could
    mean either number; such options are asked as choices.
    """
    options = question.options
    values = [option.value for option in options]
    ascends = all(a is not None and b is not None and a < b for a, b in pairwise(values))
    clashes = any(option.label.strip().isdigit() and option.label != str(i) for i, option in enumerate(options))
    return question.kind == "score" and 2 <= len(options) <= MOST_LEVELS and ascends and not clashes
