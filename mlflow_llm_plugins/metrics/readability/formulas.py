"""The readability metrics: one row in `FORMULAS` and one function each; the values are textstat's, unrounded."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from types import MappingProxyType
from typing import Any

from mlflow_llm_plugins.metrics.metric import LLMMetric, NotScoredError, RowScores, score_each
from mlflow_llm_plugins.metrics.packages import require
from mlflow_llm_plugins.metrics.readability import dictionary
from mlflow_llm_plugins.metrics.readability.code_blocks import without_code
from mlflow_llm_plugins.metrics.readability.function_words import other_language
from mlflow_llm_plugins.metrics.readability.language import WRITTEN_IN, Language, check_script, language_of

_ENGLISH = ("en",)
_FLESCH = ("de", "en", "es", "fr", "hu", "it", "nl", "ru")  # with constants of their own in textstat's LANG_CONFIGS
_FOG = ("en", "hu", "pl")  # with a threshold of syllables of their own there


@dataclass(frozen=True, slots=True)
class Formula:
    """What one metric computes."""

    method: str  # of textstat
    languages: tuple[str, ...]  # that the formula was made or adapted for
    counts_syllables: bool  # so it needs the dictionary, or the hyphenation patterns of another language
    details: str
    greater_is_better: bool | None = False
    is_count: bool = False  # so a text without words has one, 0


FORMULAS: Mapping[str, Formula] = MappingProxyType(
    {
        "ari_grade_level": Formula(
            "automated_readability_index",
            _ENGLISH,
            counts_syllables=False,
            details="Automated Readability Index: 4.71 * characters/words + 0.5 * words/sentences - 21.43",
        ),
        "flesch_kincaid_grade_level": Formula(
            "flesch_kincaid_grade",
            _ENGLISH,
            counts_syllables=True,
            details="Flesch-Kincaid grade level: 0.39 * words/sentences + 11.8 * syllables/words - 15.59",
        ),
        "flesch_reading_ease": Formula(
            "flesch_reading_ease",
            _FLESCH,
            counts_syllables=True,
            details="Flesch reading ease: 206.835 - 1.015 * words/sentences - 84.6 * syllables/words in English; "
            "other languages have constants of their own, such as Amstad's for German",
            greater_is_better=True,
        ),
        "gunning_fog": Formula(
            "gunning_fog",
            _FOG,
            counts_syllables=True,
            details="Gunning fog index: 0.4 * (words/sentences + percentage of words of 3 or more syllables, 4 in "
            "Polish, 5 in Hungarian, that are not in the Dale-Chall list of easy English words)",
        ),
        "smog_index": Formula(
            "smog_index",
            _ENGLISH,
            counts_syllables=True,
            details="SMOG index: 1.043 * sqrt(30 * words of 3 or more syllables / sentences) + 3.1291; it was normed "
            "on 30 sentences",
        ),
        "coleman_liau_index": Formula(
            "coleman_liau_index",
            _ENGLISH,
            counts_syllables=False,
            details="Coleman-Liau index: 5.8 * letters/words - 29.6 * sentences/words - 15.8",
        ),
        "dale_chall": Formula(
            "dale_chall_readability_score",
            _ENGLISH,
            counts_syllables=True,
            details="Dale-Chall score: 0.1579 * percentage of words outside the list of easy words + 0.0496 * "
            "words/sentences, and 3.6365 more where that percentage is above 5; inflected easy words count as "
            "difficult",
        ),
        "linsear_write": Formula(
            "linsear_write_formula",
            _ENGLISH,
            counts_syllables=True,
            details="Linsear Write over the first 100 words: with r = (words of up to 2 syllables + 3 * longer words) "
            "/ sentences, r/2 where r is above 20, else r/2 - 1",
        ),
        "word_count": Formula(
            "lexicon_count",
            tuple(WRITTEN_IN),
            counts_syllables=False,
            details="Words: between spaces",
            greater_is_better=None,
            is_count=True,
        ),
        "sentence_count": Formula(
            "sentence_count",
            tuple(WRITTEN_IN),
            counts_syllables=False,
            details="Sentences of more than two words, by . ! and ?; at least 1 where there is a word",
            greater_is_better=None,
            is_count=True,
        ),
    }
)


def ari_grade_level(lang: str = "en", strip_code: bool = False, *, name: str = "ari_grade_level") -> LLMMetric:
    """US school grade by characters a word and words a sentence (Automated Readability Index); English only.

    This and the other metrics of this file score `predictions`. A text has no score, and a reason for that, where it
    has no letters, or less than half of its letters are in the script that the language is written in. Neither has one
    of 12 words or more that is clearly in another language of the same script, but for counts: twelve languages are
    told by their little words, and a text that is in doubt, as a short or a mixed one, is scored.

    Args:
        lang: The language of the texts; a region is allowed, as in "en_GB".
        strip_code: Leave out fenced code blocks (``` or ~~~, also unclosed ones) and inline code.
        name: Another one where a second such metric takes part, as of another language.

    Raises:
        InvalidInputError: The formula does not know the language.
        MissingDependencyError: textstat is not installed.
    """
    return _metric("ari_grade_level", lang, strip_code, name)


def flesch_kincaid_grade_level(
    lang: str = "en", strip_code: bool = False, *, name: str = "flesch_kincaid_grade_level"
) -> LLMMetric:
    """US school grade by words a sentence and syllables a word; English only.

    See `ari_grade_level` for the arguments.
    """
    return _metric("flesch_kincaid_grade_level", lang, strip_code, name)


def flesch_reading_ease(lang: str = "en", strip_code: bool = False, *, name: str = "flesch_reading_ease") -> LLMMetric:
    """Ease, about 0 (very hard) to 100 (very easy), in eight languages.

    See `ari_grade_level` for the arguments.
    """
    return _metric("flesch_reading_ease", lang, strip_code, name)


def gunning_fog(lang: str = "en", strip_code: bool = False, *, name: str = "gunning_fog") -> LLMMetric:
    """Years of schooling by words a sentence and long words; English, Hungarian, Polish.

    In all three languages, words of the Dale-Chall list of easy English words do not count as long.

    See `ari_grade_level` for the arguments.
    """
    return _metric("gunning_fog", lang, strip_code, name)


def smog_index(lang: str = "en", strip_code: bool = False, *, name: str = "smog_index") -> LLMMetric:
    """US school grade by words of three or more syllables a sentence; English only.

    See `ari_grade_level` for the arguments.
    """
    return _metric("smog_index", lang, strip_code, name)


def coleman_liau_index(lang: str = "en", strip_code: bool = False, *, name: str = "coleman_liau_index") -> LLMMetric:
    """US school grade by letters and sentences for 100 words; English only.

    See `ari_grade_level` for the arguments.
    """
    return _metric("coleman_liau_index", lang, strip_code, name)


def dale_chall(lang: str = "en", strip_code: bool = False, *, name: str = "dale_chall") -> LLMMetric:
    """Difficulty by words outside a list of easy ones, 4.9 or lower is easy; English only.

    See `ari_grade_level` for the arguments.
    """
    return _metric("dale_chall", lang, strip_code, name)


def linsear_write(lang: str = "en", strip_code: bool = False, *, name: str = "linsear_write") -> LLMMetric:
    """US school grade by the syllables of the first 100 words; English only.

    See `ari_grade_level` for the arguments.
    """
    return _metric("linsear_write", lang, strip_code, name)


def word_count(lang: str = "en", strip_code: bool = False, *, name: str = "word_count") -> LLMMetric:
    """Words between spaces, 0 for a text without any.

    See `ari_grade_level` for the arguments.
    """
    return _metric("word_count", lang, strip_code, name)


def sentence_count(lang: str = "en", strip_code: bool = False, *, name: str = "sentence_count") -> LLMMetric:
    """Sentences of more than two words, at least 1, and 0 for a text without words.

    See `ari_grade_level` for the arguments.
    """
    return _metric("sentence_count", lang, strip_code, name)


def _metric(kind: str, lang: str, strip_code: bool, name: str) -> LLMMetric:
    formula = FORMULAS[kind]
    language = language_of(lang, formula.languages, kind)

    def eval_fn(predictions: Iterable[Any]) -> RowScores:
        textstat = _textstat(language, formula.counts_syllables)
        return score_each(lambda text: _score(formula, textstat, language, text, strip_code), predictions)

    return LLMMetric(
        eval_fn,
        name,
        greater_is_better=formula.greater_is_better,
        metric_details=f"{formula.details} (textstat's {formula.method}).",
        metric_metadata={**_versions(formula, language), "lang": language.name, "strip_code": strip_code},
    )


def _score(formula: Formula, textstat: Any, language: Language, text: str, strip_code: bool) -> float:
    prose = without_code(text) if strip_code else text
    compute: Callable[[str], float] = getattr(textstat, formula.method)
    if check_script(prose, language):
        if not formula.is_count and (other := other_language(prose, language.root)):
            raise NotScoredError(f"the prediction looks like {other}, but lang={language.name!r}")
        return compute(prose)
    if formula.is_count:  # numbers are words, too; textstat finds one sentence in a blank text
        return compute(prose) if textstat.lexicon_count(prose) else 0.0
    raise NotScoredError("the prediction has no letters" + (" outside its code" if prose != text else ""))


def _textstat(language: Language, counts_syllables: bool) -> Any:
    """An instance of our own: the language of the one that textstat exports is global."""
    textstat = type(dictionary.textstat_module().textstat)()
    textstat.set_lang(language.textstat_name)
    if counts_syllables and language.root == "en":
        dictionary.load(textstat, language.textstat_name)
    elif counts_syllables:
        _accept_english_words(textstat)
    return textstat


def _accept_english_words(textstat: Any) -> None:
    """Silence textstat's warning, once a language, that its list of easy words is English: the details say so."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is no easy words vocabulary")
        textstat.is_easy_word("a")


def _versions(formula: Formula, language: Language) -> dict[str, str]:
    """Of everything that a value depends on."""
    versions = {"textstat": _installed("textstat")}
    if formula.counts_syllables:
        versions["pyphen"] = _installed("pyphen")  # for words that are not in the dictionary
    if formula.counts_syllables and language.root == "en":
        versions["dictionary"] = dictionary.VERSION
    return versions


def _installed(package: str) -> str:
    try:
        return version(package)
    except ModuleNotFoundError:
        require(package)
        raise
