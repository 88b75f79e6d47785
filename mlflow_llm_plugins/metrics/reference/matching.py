"""Whether a prediction is the target, and how many of its words are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from numbers import Real
from typing import Any

import numpy as np

from mlflow_llm_plugins.metrics.metric import LLMMetric, RowScores, Score, is_missing, row_scores, text_of
from mlflow_llm_plugins.metrics.packages import require
from mlflow_llm_plugins.metrics.reference.rows import is_list, references_of, scored_rows, scored_texts
from mlflow_llm_plugins.metrics.reference.words import folded, pieces, without_punctuation

_ARTICLES = re.compile(r"\b(a|an|the)\b")


def exact_match(
    *, ignore_case: bool = False, ignore_punctuation: bool = False, strip: bool = False, name: str = "exact_match"
) -> LLMMetric:
    """1 where the prediction is the target, or one of the targets, else 0; numbers count as their text.

    Args:
        ignore_case: Upper case equals lower case, in all scripts that have them.
        ignore_punctuation: Punctuation is left out, and blanks in a row count as one.
        strip: Blanks and line ends around a text are left out.
        name: Another one where a second such metric takes part.
    """

    def normalised(text: str) -> str:
        text = text.casefold() if ignore_case else text
        text = re.sub(r"\s+", " ", without_punctuation(text)) if ignore_punctuation else text
        return text.strip() if strip else text

    def score(prediction: object, target: object) -> Score:
        predicted = {normalised(form) for form in _forms(prediction, "prediction")}
        wanted = {normalised(form) for item in _items(target) for form in _forms(item, "target")}
        return float(not predicted.isdisjoint(wanted)), None

    def eval_fn(predictions: Iterable[Any], targets: Iterable[Any]) -> RowScores:
        result = row_scores(*scored_rows(score, predictions, targets))
        if "mean" in result.aggregate_results:  # the key of MLflow's own metric is `exact_match/v1`
            result.aggregate_results[name] = result.aggregate_results["mean"]
        return result

    return LLMMetric(
        eval_fn,
        name,
        greater_is_better=True,
        metric_details="1 where the prediction equals the target or one of the targets, else 0.",
        metric_metadata={"ignore_case": ignore_case, "ignore_punctuation": ignore_punctuation, "strip": strip},
    )


def token_f1(*, name: str = "token_f1") -> LLMMetric:
    """The F1 of the words that prediction and target share; on ASCII texts it is that of SQuAD's evaluation.

    Words are compared in lower case, without punctuation and English articles; where neither text has words left it is
    1, where one has none it is 0. For other texts than SQuAD's: full-width letters count as plain ones, Unicode's
    punctuation is left out, too, and scripts without spaces count by character. The best of several targets counts.

    Args:
        name: Another one where a second such metric takes part.

    Raises:
        MissingDependencyError: regex is not installed.
    """
    require("regex")

    def score(prediction: str, references: list[str]) -> Score:
        predicted = _words(prediction)
        return max(_f1(predicted, _words(reference)) for reference in references), None

    def eval_fn(predictions: Iterable[Any], targets: Iterable[Any]) -> RowScores:
        return row_scores(*scored_texts(score, predictions, targets))

    return LLMMetric(
        eval_fn,
        name,
        greater_is_better=True,
        metric_details="F1 of the words in common, normalised as in SQuAD (Rajpurkar et al. 2016, evaluate-v2.0.py); "
        "scripts without spaces count by character.",
    )


def _items(target: object) -> Iterable[object]:
    """A target's cell as a list; an empty one is refused with the reason of `references_of`."""
    if not is_list(target):
        return [target]
    return list(target) or references_of(target)  # type: ignore[call-overload]


def _forms(cell: Any, name: str) -> tuple[str, ...]:
    """A text as it is, a number as its text: 4.0 also as `4`, since pandas makes floats of integers beside a gap."""
    if isinstance(cell, float | np.floating) and float(cell).is_integer():
        return str(cell), str(int(cell))
    is_number = isinstance(cell, Real | np.bool_) and not is_missing(cell)
    return (str(cell),) if is_number else (text_of(cell, name),)


def _words(text: str) -> list[str]:
    return pieces(_ARTICLES.sub(" ", without_punctuation(folded(text))))


def _f1(predicted: list[str], wanted: list[str]) -> float:
    if not predicted or not wanted:
        return float(predicted == wanted)
    common = (Counter(predicted) & Counter(wanted)).total()
    return 2 * common / (len(predicted) + len(wanted))
