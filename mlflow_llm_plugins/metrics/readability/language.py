"""Languages that readability formulas know, and whether a text is written in the script of one."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.metrics.metric import NotScoredError

SMALLEST_SHARE = 0.5  # of a text's letters that must be in the language's script
_LATIN = "ca cs da de en es et eu fr gl hr hu id is it lt lv nb nl nn pl pt ro sk sl sq sv tr vi"
_CYRILLIC = "be bg mk ru uk"

# Language -> the scripts that it is written in, as Unicode names them. Words have spaces between them in all of these,
# and sentences end with . ! or ?: textstat finds neither elsewhere.
WRITTEN_IN: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        **dict.fromkeys(_LATIN.split(), ("LATIN",)),
        **dict.fromkeys(_CYRILLIC.split(), ("CYRILLIC",)),
        "sr": ("CYRILLIC", "LATIN"),
    }
)

_NAMED = """
    Arabic Armenian Bengali Bopomofo Cyrillic Devanagari Ethiopic Georgian Greek Gujarati Gurmukhi Hangul Hebrew
    Hiragana Kannada Katakana Khmer Lao Latin Malayalam Mongolian Myanmar Oriya Sinhala Syriac Tamil Telugu Thaana Thai
    Tibetan
"""
# The first word of a letter's name -> what people call its script.
_SHOWN: Mapping[str, str] = MappingProxyType(
    {
        **{name.upper(): name for name in _NAMED.split()},
        **dict.fromkeys(("CJK", "IDEOGRAPHIC", "KANGXI"), "Chinese"),
    }
)


@dataclass(frozen=True, slots=True)
class Language:
    """A language of texts."""

    root: str  # "en"
    name: str  # "en_GB"; the root where no region was given

    @property
    def textstat_name(self) -> str:
        """A name that textstat reads as this language, but that nobody else gives it.

        textstat remembers syllables and dictionaries by the language's name, so under a shared one we could get values
        that come from another dictionary than ours. It splits names at "_" and leaves out what it does not know. Its
        English is American; hyphenation of "en" alone, for words that are not in the dictionary, differs from that.
        """
        return f"{'en_US' if self.name == 'en' else self.name}_llm"


def language_of(lang: object, known: Iterable[str], metric: str) -> Language:
    """The language of a name such as "en", "en_GB" or "en-gb".

    Raises:
        InvalidInputError: It is none of `known`.
    """
    parts = re.fullmatch(r"([A-Za-z]{2})(?:[-_]([A-Za-z]{2}))?", lang) if isinstance(lang, str) else None
    root = parts[1].lower() if parts else ""
    if not parts or root not in known:
        raise InvalidInputError(
            f"{metric}(lang={lang!r}): this metric knows the languages {', '.join(sorted(known))}; "
            "a region may follow, as in 'en_GB'. Leave the metric out for texts in others."
        )
    return Language(root, f"{root}_{parts[2].upper()}" if parts[2] else root)


def check_script(text: str, language: Language) -> bool:
    """Whether the text has letters.

    Raises:
        NotScoredError: Less than half of them belong to the language's script.
    """
    letters = _letters_by_script(text)
    ours = WRITTEN_IN[language.root]
    share = sum(letters[script] for script in ours) / (letters.total() or 1)
    if letters and share < SMALLEST_SHARE:
        others = next(script for script, _ in letters.most_common() if script not in ours)
        raise NotScoredError(
            f"only {math.floor(100 * share)}% of the prediction's letters are in {' or '.join(map(_shown, ours))} "
            f"script, in which lang={language.name!r} is written; most others are in {_shown(others)} script"
        )
    return letters.total() > 0


def _letters_by_script(text: str) -> Counter[str]:
    """By the plain forms of letters: those that are full-width, ligatures, or of mathematics have them."""
    scripts: Counter[str] = Counter()
    for character, count in Counter(text).items():
        for letter in unicodedata.normalize("NFKC", character):
            if letter.isalpha():
                scripts[_script(letter)] += count
    return scripts


def _script(letter: str) -> str:
    """The first word of the letter's name, which is its script for all but odd ones: LATIN, CYRILLIC, CJK, HANGUL."""
    return unicodedata.name(letter, "unknown").partition(" ")[0]


def _shown(script: str) -> str:
    return _SHOWN.get(script, "another")
