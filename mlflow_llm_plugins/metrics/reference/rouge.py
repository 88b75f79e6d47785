"""ROUGE by rouge-score, with words of all scripts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from typing import Any

from mlflow_llm_plugins.metrics.metric import LLMMetric, RowScores, Score, row_scores
from mlflow_llm_plugins.metrics.packages import require
from mlflow_llm_plugins.metrics.reference.rows import scored_texts
from mlflow_llm_plugins.metrics.reference.words import WordTokenizer, cut, folded, has_words

# Of a text for rougeLsum: rouge-score's time grows with the product of both texts' words and that of their lines.
MAX_WORDS = 2000
MAX_LINES = 400
_CUT = f"only the first {MAX_WORDS:,} words, and {MAX_LINES} lines, of a text count"

Fmeasure = Callable[[str, list[str]], float]  # a prediction and its targets, all folded -> the best F1


def rouge1(*, use_stemmer: bool = False, name: str = "rouge1") -> LLMMetric:
    """F1 of the words in common, with how often each occurs; the best of several targets counts.

    Args:
        use_stemmer: Porter's stemmer cuts the endings of English words first.
        name: Another one where a second such metric takes part.
    """
    return _rouge(name, _of_rouge_score("rouge1", use_stemmer), use_stemmer, "F1 of the words in common")


def rouge2(*, use_stemmer: bool = False, name: str = "rouge2") -> LLMMetric:
    """F1 of the pairs of neighbouring words in common; the best of several targets counts.

    Args:
        use_stemmer: Porter's stemmer cuts the endings of English words first.
        name: Another one where a second such metric takes part.
    """
    what = "F1 of the pairs of neighbouring words in common"
    return _rouge(name, _of_rouge_score("rouge2", use_stemmer), use_stemmer, what)


def rougeL(*, use_stemmer: bool = False, name: str = "rougeL") -> LLMMetric:
    """F1 of the longest common subsequence of words; the best of several targets counts.

    Args:
        use_stemmer: Porter's stemmer cuts the endings of English words first.
        name: Another one where a second such metric takes part.
    """
    what = "F1 of the longest common subsequence of words"
    return _rouge(name, _of_subsequences(use_stemmer), use_stemmer, what)


def rougeLsum(*, use_stemmer: bool = False, name: str = "rougeLsum") -> LLMMetric:
    """As `rougeL`, line by line: for each line of the target the union of its subsequences with all lines.

    Of long texts the first 2,000 words and the first 400 lines count, and a note says so.

    Args:
        use_stemmer: Porter's stemmer cuts the endings of English words first.
        name: Another one where a second such metric takes part.
    """
    what = "F1 of the longest common subsequences of words, line by line"
    limits = {"max_words": MAX_WORDS, "max_lines": MAX_LINES}
    return _rouge(name, _of_rouge_score("rougeLsum", use_stemmer), use_stemmer, what, limits)


def _rouge(
    name: str, fmeasure: Fmeasure, use_stemmer: bool, what: str, limits: dict[str, int] | None = None
) -> LLMMetric:
    def score(prediction: str, references: list[str]) -> Score:
        folds = [folded(text) for text in (prediction, *references)]
        cuts = [_cut(text) for text in folds] if limits else folds
        return fmeasure(cuts[0], cuts[1:]), _note(cuts[1:], cuts != folds)

    def eval_fn(predictions: Iterable[Any], targets: Iterable[Any]) -> RowScores:
        return row_scores(*scored_texts(score, predictions, targets))

    return LLMMetric(
        eval_fn,
        name,
        greater_is_better=True,
        metric_details=f"{what}, by rouge-score (Lin 2004), with words of all scripts after NFKC.",
        metric_metadata={
            "rouge_score": metadata.version("rouge-score"),
            "use_stemmer": use_stemmer,
            **(limits or {}),
        },
    )


def _of_rouge_score(kind: str, use_stemmer: bool) -> Fmeasure:
    scorer = require("rouge_score.rouge_scorer", "rouge-score").RougeScorer(
        [kind], tokenizer=WordTokenizer(use_stemmer)
    )
    return lambda prediction, references: float(scorer.score_multi(references, prediction)[kind].fmeasure)


def _of_subsequences(use_stemmer: bool) -> Fmeasure:
    """As rouge-score's own rougeL, which takes seconds for 2,000 words and minutes for 20,000."""
    f1 = require("rouge_score.scoring", "rouge-score").fmeasure
    length = require("rapidfuzz.distance", "rapidfuzz").LCSseq.similarity
    words = WordTokenizer(use_stemmer).tokenize

    def against(reference: list[str], predicted: list[str]) -> float:
        common = length(reference, predicted)
        return float(f1(common / len(predicted), common / len(reference))) if common else 0.0

    def best(prediction: str, references: list[str]) -> float:
        predicted = words(prediction)
        return max(against(words(reference), predicted) for reference in references)

    return best


def _cut(text: str) -> str:
    """Up to the limits; only lines with something in them count, as for rouge-score."""
    lines = [line for line in text.split("\n") if line]
    return cut(text if len(lines) <= MAX_LINES else "\n".join(lines[:MAX_LINES]), MAX_WORDS)


def _note(references: Sequence[str], was_cut: bool) -> str | None:
    if not any(has_words(reference) for reference in references):
        return "the target has no words, which counts as 0"
    return _CUT if was_cut else None
