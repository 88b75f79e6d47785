"""Words of any script: the tokenizers of ROUGE and of token F1, and what counts as punctuation.

Scripts that are written without spaces between words count character by character, as is usual for them; so does
Hangul, whose words carry their particles. On ASCII both tokenizers give what the original ones give.
"""

from __future__ import annotations

import string
import unicodedata
from functools import cache, lru_cache
from typing import Any

from mlflow_llm_plugins.metrics.packages import require

_SINGLY = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
# Marks belong to words: without them Hindi falls apart. `re` knows no scripts and leaves marks out of `\w`.
_WORD = rf"[[{_SINGLY}]&&[\p{{L}}\p{{M}}\p{{N}}]]\p{{M}}*|[\p{{L}}\p{{M}}\p{{N}}--[{_SINGLY}]]+"
_PIECE = rf"[{_SINGLY}]\p{{M}}*|[^\s{_SINGLY}]+"


class WordTokenizer:
    """The tokenizer for `RougeScorer`; its own drops all but ASCII letters and digits. Texts are folded before."""

    def __init__(self, use_stemmer: bool) -> None:
        """Porter's stemmer cuts English endings off words of more than three letters, as in rouge-score."""
        self._stem = require("nltk.stem.porter", "nltk").PorterStemmer().stem if use_stemmer else None

    def tokenize(self, text: str) -> list[str]:
        """The words of a folded text."""
        words: list[str] = _pattern(_WORD).findall(text)
        if self._stem is None:
            return words
        return [self._stem(word) if len(word) > 3 and word.isascii() else word for word in words]


def folded(text: str) -> str:
    """Lower case, and one form for characters that mean the same: full-width letters, composed accents."""
    return unicodedata.normalize("NFKC", text).lower()


def cut(text: str, limit: int) -> str:
    """A folded text up to its word number `limit`."""
    for number, match in enumerate(_pattern(_WORD).finditer(text)):
        if number == limit:
            return text[: match.start()]
    return text


def has_words(text: str) -> bool:
    """Whether there is more than punctuation, signs and blanks."""
    return _pattern(_WORD).search(text) is not None


def pieces(text: str) -> list[str]:
    """What stands between blanks, and single characters of scripts without blanks."""
    found: list[str] = _pattern(_PIECE).findall(" ".join(text.split()))
    return found


def without_punctuation(text: str) -> str:
    """The text without Unicode's punctuation and without ASCII's signs such as `$` and `+`."""
    return "".join(character for character in text if not _is_punctuation(character))


@lru_cache(maxsize=4096)
def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")


@cache
def _pattern(pattern: str) -> Any:
    regex = require("regex")
    return regex.compile(pattern, regex.V1)
