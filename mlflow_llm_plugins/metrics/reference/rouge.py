"""ROUGE by rouge-score, with words of all scripts."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from importlib import metadata
from typing import Any

from mlflow_llm_plugins.metrics.metric import LLMMetric, RowScores, row_scores
from mlflow_llm_plugins.metrics.packages import require
from mlflow_llm_plugins.metrics.reference.rows import Score, scored_texts
from mlflow_llm_plugins.metrics.reference.words import WordTokenizer, cut, folded, has_words

MAX_WORDS = 2000  # a text; the longest common subsequence takes time with the square of it: seconds a row there


def rouge1(*, use_stemmer: bool = False) -> LLMMetric:
    """F1 of the words in common, with how often each occurs; the best of several targets counts.

    Args:
        use_stemmer: Porter's stemmer cuts the endings of English words first.
    """
    return _rouge("rouge1", use_stemmer, "F1 of the words in common")


def rouge2(*, use_stemmer: bool = False) -> LLMMetric:
    """F1 of the pairs of neighbouring words in common; the best of several targets counts.

    Args:
        use_stemmer: Porter's stemmer cuts the endings of English words first.
    """
    return _rouge("rouge2", use_stemmer, "F1 of the pairs of neighbouring words in common")


def rougeL(*, use_stemmer: bool = False) -> LLMMetric:
    """F1 of the longest common subsequence of words; of long texts the first 2,000 words count, and a note says so.

    Args:
        use_stemmer: Porter's stemmer cuts the endings of English words first.
    """
    return _rouge("rougeL", use_stemmer, "F1 of the longest common subsequence of words", MAX_WORDS)


def rougeLsum(*, use_stemmer: bool = False) -> LLMMetric:
    """As `rougeL`, line by line: for each line of the target the union of its subsequences with all lines.

    Args:
        use_stemmer: Porter's stemmer cuts the endings of English words first.
    """
    return _rouge("rougeLsum", use_stemmer, "F1 of the longest common subsequences of words, line by line", MAX_WORDS)


def _rouge(name: str, use_stemmer: bool, what: str, limit: int | None = None) -> LLMMetric:
    tokenizer = WordTokenizer(use_stemmer)
    scorer = require("rouge_score.rouge_scorer", "rouge-score").RougeScorer([name], tokenizer=tokenizer)
    score = functools.partial(_score, scorer, name, limit)

    def eval_fn(predictions: Iterable[Any], targets: Iterable[Any]) -> RowScores:
        return row_scores(*scored_texts(score, predictions, targets))

    return LLMMetric(
        eval_fn,
        name,
        greater_is_better=True,
        metric_details=f"{what}, by rouge-score (Lin 2004), with words of all scripts after NFKC.",
        metric_metadata={"rouge_score": metadata.version("rouge-score"), "use_stemmer": use_stemmer, "limit": limit},
    )


def _score(scorer: Any, name: str, limit: int | None, prediction: str, references: list[str]) -> Score:
    folds = [folded(text) for text in (prediction, *references)]
    cuts = [cut(text, limit) if limit is not None else (text, False) for text in folds]
    texts = [text for text, _ in cuts]
    value = float(scorer.score_multi(texts[1:], texts[0])[name].fmeasure)
    return value, _note(texts[1:], limit if any(was_cut for _, was_cut in cuts) else None)


def _note(references: Sequence[str], limit: int | None) -> str | None:
    if not any(has_words(reference) for reference in references):
        return "the target has no words, which counts as 0"
    return f"only the first {limit:,} words of a text count" if limit else None
