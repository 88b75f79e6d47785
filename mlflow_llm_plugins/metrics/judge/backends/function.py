"""A Python function as a judge."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.metrics.judge.backends.rows_in_flight import RowsInFlight
from mlflow_llm_plugins.metrics.judge.backends.verdicts import NoOpinionError, opinion_of, option_index, shares_of
from mlflow_llm_plugins.metrics.judge.question import Opinion, Question


class FunctionJudge:
    """Calls a function with the text of each question, one after the other: it need not be thread-safe.

    The function returns a label; or a number, which is what an option counts; or True or False to yes and no; or a
    dictionary with `choice` (one of these), `probabilities` (label -> number) or both, and `rationale`. What is none
    of the options, or an exception, is the row's error.
    """

    def __init__(self, function: Callable[[str], Any]) -> None:
        """Take the function.

        Args:
            function: Gets the whole question: instructions, sections, reminder.

        Raises:
            InvalidInputError: It cannot be called with one argument.
        """
        if not can_take(function, "text"):
            raise InvalidInputError(
                f"judge: {_name(function)} takes {inspect.signature(function)}, and a judge is called with one "
                "argument, the question's text."
            )
        self._function = function
        self._rows = RowsInFlight(1)

    def ask(self, questions: Sequence[Question], *, rationale: bool = False, progress: bool = True) -> list[Opinion]:
        """One opinion a question, in order; see `JudgeBackend`."""
        return self._rows.ask(partial(self._opinion, rationale=rationale), questions, progress)

    def describe(self) -> Mapping[str, Any]:
        """The function's name and module."""
        module = getattr(self._function, "__module__", None)
        return {"backend": "function", "function": f"{module}:{_name(self._function)}"}

    def close(self) -> None:
        """Nothing was opened."""

    def _opinion(self, question: Question, rationale: bool) -> Opinion:
        answer = self._function(question.text())
        if not isinstance(answer, Mapping):
            return Opinion(choice=option_index(_plain(answer), question))
        words = answer.get("rationale")
        found = _of_mapping(question, answer)
        return Opinion(
            choice=found.choice,
            logprobs=found.logprobs,
            is_normalised=found.is_normalised,
            rationale=str(words) if rationale and words is not None else None,
        )


def can_take(function: Callable[..., Any], *given: object) -> bool:
    """Whether it can be called with these; also where nobody can tell, as of some functions that are written in C."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return True
    try:
        signature.bind(*given)
    except TypeError:
        return False
    return True


def _name(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__qualname__", None) or type(function).__qualname__)


def _of_mapping(question: Question, answer: Mapping[str, Any]) -> Opinion:
    if "choice" not in answer and "probabilities" not in answer:
        raise NoOpinionError("the judge's dictionary has neither choice nor probabilities")
    choice = option_index(_plain(answer["choice"]), question) if "choice" in answer else None
    if "probabilities" not in answer:
        return Opinion(choice=choice)
    shares = shares_of(answer["probabilities"], [option.label for option in question.options])
    return opinion_of(list(map(_plain, shares)), choice)


def _plain(value: Any) -> Any:
    """Numpy's numbers as Python's."""
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value
