"""The labels by which a model answers: Yes and No, letters, digits."""

from __future__ import annotations

import string
from itertools import product
from typing import Literal

QuestionType = Literal["noul", "choice", "score"]  # noul: yes or no

YES_NO = ("Yes", "No")

_LETTERS = tuple(string.ascii_uppercase)
_PAIRS = tuple(map("".join, product(_LETTERS, repeat=2)))
_DIGITS = tuple(string.digits)

MOST_OPTIONS = len(_PAIRS)
MOST_LEVELS = len(_DIGITS)  # of one digit: 1 begins 10


def question_labels(question_type: QuestionType, count: int) -> tuple[str, ...]:
    """The labels of `count` options, in their order.

    No label begins another one: a model that is about to write AB also makes A likely. So from 27 options on all
    labels have two letters.

    Args:
        question_type: Of a noul yes comes first.
        count: At most `MOST_OPTIONS` options of a choice, or `MOST_LEVELS` levels of a score.
    """
    if question_type == "noul":
        return YES_NO
    if question_type == "score":
        return _DIGITS[:count]
    return _LETTERS[:count] if count <= len(_LETTERS) else _PAIRS[:count]
