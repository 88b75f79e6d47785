"""BLEU and chrF by sacrebleu: a score a row, and the score of the corpus, which is not the mean of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError, MissingDependencyError
from mlflow_llm_plugins.lookup import did_you_mean
from mlflow_llm_plugins.metrics.metric import LLMMetric, RowScores, Score, row_scores, text_of
from mlflow_llm_plugins.metrics.packages import require
from mlflow_llm_plugins.metrics.reference.rows import references_of, scored_texts

# Those of sacrebleu that download nothing; the last two need its extras.
TOKENIZERS = ("13a", "intl", "zh", "char", "none", "ja-mecab", "ko-mecab")


def bleu(*, tokenize: str = "13a", lowercase: bool = False, name: str = "bleu") -> LLMMetric:
    """BLEU from 0 to 100: a row's with effective order, and `corpus` as sacrebleu's command line gives it.

    Args:
        tokenize: "13a", "intl", "zh", "char", "none", "ja-mecab" or "ko-mecab". Chinese needs "zh".
        lowercase: Upper case equals lower case.
        name: Another one where a second such metric takes part.

    Raises:
        InvalidInputError: There is no such tokenizer, or it would download a model.
        MissingDependencyError: sacrebleu, or what the tokenizer needs, is not installed.
    """
    sacrebleu = require("sacrebleu")
    _check_tokenizer(tokenize)
    make = partial(_bleu_scorer, sacrebleu, tokenize, lowercase)
    return _corpus_metric(
        name,
        row_scorer=partial(make, effective_order=True),  # without it identical texts of two words have 0
        corpus_scorer=make,
        details="BLEU (Papineni et al. 2002) by sacrebleu (Post 2018), 0 to 100.",
        settings={"tokenize": tokenize, "lowercase": lowercase},
    )


def chrf(
    *,
    char_order: int = 6,
    word_order: int = 0,
    beta: int = 2,
    lowercase: bool = False,
    whitespace: bool = False,
    name: str = "chrf",
) -> LLMMetric:
    """F-score of n-grams of characters, so for all scripts, from 0 to 100; a row's and, as `corpus`, of all.

    Args:
        char_order: The longest n-gram of characters.
        word_order: The longest n-gram of words; 2 is chrF++.
        beta: How much more recall counts than precision.
        lowercase: Upper case equals lower case.
        whitespace: Blanks count as characters.
        name: Another one where a second such metric takes part.

    Raises:
        InvalidInputError: A number is out of range.
        MissingDependencyError: sacrebleu is not installed.
    """
    settings = {"char_order": char_order, "word_order": word_order, "beta": beta}
    for setting, value in settings.items():
        _check_number(setting, value, at_least=0 if setting == "word_order" else 1)
    sacrebleu = require("sacrebleu")
    make = partial(sacrebleu.CHRF, **settings, lowercase=lowercase, whitespace=whitespace)
    return _corpus_metric(
        name,
        row_scorer=make,
        corpus_scorer=make,
        details="chrF (Popovic 2015) by sacrebleu (Post 2018), 0 to 100.",
        settings={**settings, "lowercase": lowercase, "whitespace": whitespace},
    )


def _corpus_metric(
    name: str,
    *,
    row_scorer: Callable[[], Any],
    corpus_scorer: Callable[[], Any],
    details: str,
    settings: Mapping[str, Any],
) -> LLMMetric:
    """Scorers are made anew for each evaluation: they remember the number of references for their signature."""

    def eval_fn(predictions: Iterable[Any], targets: Iterable[Any]) -> RowScores:
        predictions, targets = list(predictions), list(targets)
        scores, reasons = scored_texts(partial(_row_score, row_scorer()), predictions, targets)
        pairs = [
            (text_of(prediction, "prediction"), references_of(target))
            for prediction, target, score in zip(predictions, targets, scores, strict=True)
            if not math.isnan(score)
        ]
        corpus, signature = _corpus_score(corpus_scorer(), pairs)
        columns = {"signature": [signature] * len(scores)} if pairs else None
        return row_scores(scores, reasons, aggregates={"corpus": corpus}, columns=columns)

    example = [("a", ["a"])]  # a scorer has a signature once it has scored
    signatures = {"signature": _corpus_score(corpus_scorer(), example)[1],
                  "row_signature": _corpus_score(row_scorer(), example)[1]}  # fmt: skip
    return LLMMetric(
        eval_fn,
        name,
        greater_is_better=True,
        main="corpus",
        figures=["corpus"],
        metric_details=f"{details} `corpus` is the score of all rows, with the signature of the column; "
        "mean, variance and p90 are of the rows' own scores.",
        metric_metadata={**settings, **signatures},
    )


def _row_score(scorer: Any, prediction: str, references: list[str]) -> Score:
    return _percent(scorer.sentence_score(prediction, references).score), None


def _corpus_score(scorer: Any, pairs: Sequence[tuple[str, list[str]]]) -> tuple[float, str | None]:
    """The score and the signature; rows may have different numbers of references, None fills the gaps."""
    if not pairs:
        return math.nan, None
    references = [list(stream) for stream in zip_longest(*(texts for _, texts in pairs))]
    score = scorer.corpus_score([prediction for prediction, _ in pairs], references).score
    return _percent(score), str(scorer.get_signature())


def _percent(score: float) -> float:
    return min(float(score), 100.0)  # equal texts have 100.00000000000004


def _bleu_scorer(sacrebleu: Any, tokenize: str, lowercase: bool, effective_order: bool = False) -> Any:
    # force: whether texts look tokenized already is no business of a log
    try:
        return sacrebleu.BLEU(tokenize=tokenize, lowercase=lowercase, effective_order=effective_order, force=True)
    except RuntimeError as error:
        raise MissingDependencyError(
            f"bleu(tokenize={tokenize!r}) needs pip install 'sacrebleu[{tokenize[:2]}]'"
        ) from error


def _check_tokenizer(tokenize: str) -> None:
    if tokenize in TOKENIZERS:
        return
    raise InvalidInputError(
        f"bleu: tokenize must be one of {', '.join(TOKENIZERS)}, got {tokenize!r}."
        f"{did_you_mean(tokenize, TOKENIZERS)} "
        "Tokenizers that download a model (spm, flores101, flores200) are not offered."
    )


def _check_number(name: str, value: object, at_least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise InvalidInputError(f"chrf: {name} must be a whole number of at least {at_least}, got {value!r}.")
