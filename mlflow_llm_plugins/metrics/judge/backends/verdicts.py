"""From what a judge answers to one of the options: exactly one of them, or none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow_llm_plugins.metrics.judge.question import Opinion, Option, Question

LEAST = 1e-30  # the logarithm of a probability of 0 is taken of this
NO_OPTION = "the judge's answer is none of the options"
_SUM = 1e-3  # by which probabilities may miss 1


class NoOpinionError(Exception):
    """One question has no answer that can be used; the message is the reason, without the question's text."""


def option_index(value: object, question: Question) -> int:
    """Which option a value is: by its label, a number also by what the option counts; true is yes, and nothing else.

    Raises:
        NoOpinionError: It is none of them; nothing is guessed.
    """
    matches = [index for index, option in enumerate(question.options) if _is(value, option)]
    if len(matches) != 1 or (isinstance(value, bool) and question.kind != "yes_no"):
        raise NoOpinionError(NO_OPTION)
    return matches[0]


def _is(value: object, option: Option) -> bool:
    if isinstance(value, str):
        return value.strip() == option.label.strip()
    if isinstance(value, int | float):  # True counts 1, as Yes does
        return value == option.value if option.value is not None else str(value) == option.label.strip()
    return False


def opinion_of(shares: Sequence[object], choice: int | None = None, mass: object = None) -> Opinion:
    """An opinion from normalised probabilities, one an option.

    Args:
        shares: As they came; they are checked.
        choice: The option that the judge names itself; None: the likeliest.
        mass: How likely any option was at all, where the judge tells it.

    Raises:
        NoOpinionError: They are no probabilities.
    """
    checked = [_probability(share) for share in shares]
    if abs(math.fsum(checked) - 1) > _SUM:
        raise NoOpinionError("the judge's probabilities do not add up to 1")
    return Opinion(
        choice=checked.index(max(checked)) if choice is None else choice,
        logprobs=tuple(math.log(max(share, LEAST)) for share in checked),
        choice_mass=_mass(mass),
        is_normalised=True,
    )


def shares_of(probabilities: object, keys: Sequence[str]) -> list[Any]:
    """The probabilities of an object, in the order of the keys.

    Raises:
        NoOpinionError: The object has other keys.
    """
    if not isinstance(probabilities, Mapping) or set(probabilities) != set(keys):
        raise NoOpinionError("the judge's probabilities are not those of the options")
    return [probabilities[key] for key in keys]


def _probability(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:  # NaN neither
        raise NoOpinionError("the judge's probabilities are no numbers from 0 to 1")
    return float(value)


def _mass(value: object) -> float | None:
    """None where the judge does not tell: normalised probabilities do not."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1 + _SUM:
        return None
    return min(1.0, float(value))
