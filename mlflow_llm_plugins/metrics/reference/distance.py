"""How many characters must change to get from the prediction to the target."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mlflow_llm_plugins.metrics.metric import LLMMetric, RowScores, Score, row_scores
from mlflow_llm_plugins.metrics.packages import require
from mlflow_llm_plugins.metrics.reference.rows import scored_texts


def edit_distance(*, name: str = "edit_distance") -> LLMMetric:
    """Levenshtein's distance in characters, divided by the longer text's length: 0 for equal texts, 1 at most.

    The nearest of several targets counts. Less is better. Two texts of 100,000 characters take up to a second or two.

    Args:
        name: Another one where a second such metric takes part.

    Raises:
        MissingDependencyError: rapidfuzz is not installed.
    """
    distance = require("rapidfuzz.distance", "rapidfuzz").Levenshtein.normalized_distance

    def score(prediction: str, references: list[str]) -> Score:
        return min(float(distance(prediction, reference)) for reference in references), None

    def eval_fn(predictions: Iterable[Any], targets: Iterable[Any]) -> RowScores:
        return row_scores(*scored_texts(score, predictions, targets))

    return LLMMetric(
        eval_fn,
        name,
        greater_is_better=False,
        metric_details="Characters to insert, delete or replace (Levenshtein 1966), divided by the longer text's "
        "length; 0 for equal texts.",
    )
