"""How much an answer repeats itself, the usual sign of a model that fell into a loop."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.metrics.metric import LLMMetric, NotScoredError, RowScores, score_each
from mlflow_llm_plugins.metrics.packages import require
from mlflow_llm_plugins.metrics.reference.words import WordTokenizer, folded


def repetition_rate(n: int = 4, *, name: str = "repetition_rate") -> LLMMetric:
    """The share of an answer's n-grams of words that occurred in it before: 1 - different n-grams / all n-grams.

    That is seq-rep-n of Welleck et al. 2020, "Neural Text Generation with Unlikelihood Training", on words instead of
    tokens; case and punctuation do not count, and scripts without spaces count by character. Fewer than n words repeat
    nothing (0); no words at all have no score.

    Args:
        n: Words in an n-gram, at least 1.
        name: Another one where a second such metric takes part.

    Raises:
        InvalidInputError: n is no integer of at least 1.
        MissingDependencyError: regex is not installed.
    """
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise InvalidInputError(f"repetition_rate(n=...) must be an integer of at least 1, got {n!r}.")
    require("regex")
    words = WordTokenizer(use_stemmer=False).tokenize

    def eval_fn(predictions: Iterable[Any]) -> RowScores:
        return score_each(lambda text: _repeated(words(folded(text)), n), predictions)

    return LLMMetric(
        eval_fn,
        name,
        greater_is_better=False,
        metric_details="1 - different n-grams of words / all n-grams of words, of each answer.",
        metric_metadata={"n": n},
    )


def _repeated(words: list[str], n: int) -> float:
    if not words:
        raise NotScoredError("the prediction has no words")
    grams = [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
