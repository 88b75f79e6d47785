"""A Python function as a judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

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
        """
        self._function = function
        self._rows = RowsInFlight(1)

    def ask(self, questions: Sequence[Question], *, rationale: bool = False, progress: bool = True) -> list[Opinion]:
        """One opinion a question, in order; see `JudgeBackend`."""
        return self._rows.ask(partial(self._opinion, rationale=rationale), questions, progress)

    def describe(self) -> Mapping[str, Any]:
        """The function's name and module."""
        function = self._function
        name = getattr(function, "__qualname__", None) or type(function).__qualname__
        return {"backend": "function", "function": f"{getattr(function, '__module__', None)}:{name}"}

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
