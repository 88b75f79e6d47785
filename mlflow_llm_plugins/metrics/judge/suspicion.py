"""What in an answer looks like an attempt on the judge. A flag for readers: it never changes a score."""

from __future__ import annotations

import re
from collections.abc import Sequence

_LOOKED_AT = 20_000  # characters at each end of a long text; orders to the judge stand at its ends
_FEW_WORDS = 2
_WORD = re.compile(r"[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]|\w+")  # a sign where no blanks part words

_UNSPACED = "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]"  # Thai, Lao, Burmese, Khmer: U+200B may part their words

_PATTERNS = {
    "section delimiters": re.compile(
        r"</?\s*(?:question|answer|reference|context|candidate|criteria|rubric|instructions?)\b[^<>\n]{0,40}>"
        r"|^[ \t]*(?:#{2,}|=+|-{3,})[ \t]*(?:end|begin|start)\b",
        re.IGNORECASE | re.MULTILINE,
    ),
    "text like a verdict": re.compile(
        r"\bverdict[\"']?[ \t]*(?:is\b|:)[ \t]*[\"']?\w"
        r"|\b(?:score|rating|grade)[\"']?[ \t]*(?:is\b|of\b|:)[ \t]*[\"']?"
        r"(?:\d|a\+|(?:yes|full|max|maximum|perfect|excellent|correct|best|highest|very good)\b)"
        r"|\b(?:10|ten)[ \t]*(?:/|out of)[ \t]*(?:10|ten)\b(?![ \t]*\w)"
        r"|\b(?:5|five)[ \t]*(?:/|out of)[ \t]*(?:5|five)\b(?![ \t]*\w)"
        r"|\b(?:rate|give|award|deserves?)\b.{0,30}\b(?:10|[1-9])[ \t]*(?:/|out of)[ \t]*(?:10|5)\b(?![ \t]*\w)",
        re.IGNORECASE,
    ),
    "orders to a judge": re.compile(
        r"\b(?:ignore|disregard|forget)\b.{0,40}\b(?:above|previous|prior|instructions?|criteria|rubric)\b"
        r"|\b(?:give|assign|award)\b.{0,40}\b(?:full|highest|maximum|max|perfect|best|top)\b"
        r".{0,20}\b(?:scores?|marks?|ratings?|grades?|verdicts?|points?|credits?)\b"
        r"|\b(?:rate|score|grade)[ \t]+(?:this|it|me|my|the (?:answer|response))\b"
        r".{0,40}\b(?:full|highest|maximum|max|perfect|best|top)\b"
        r"|\b(?:dear|attention|note to(?: the)?)\s+(?:judge|grader|evaluator|reviewer)\b"
        r"|\bas (?:a|an|the) (?:judge|grader|evaluator),?[ \t]+(?:you|please|give)\b"
        r"|\byou\b.{0,20}\bas (?:a|an|the) (?:judge|grader|evaluator)\b"
        r"|\bthis (?:answer|response) (?:is|deserves|should be|must be)\b.{0,30}\b(?:perfect|correct|best|highest)\b",
        re.IGNORECASE,
    ),
    "invisible characters": re.compile(
        f"(?<!{_UNSPACED})\u200b(?!{_UNSPACED})|[\u2060-\u2064\u202a-\u202e\u2066-\u2069]|(?<!^)\ufeff"
        "|(?<![\U0001f3f4\U000e0020-\U000e007f])[\U000e0020-\U000e007f]"  # tags, but not those of flags
    ),
    "a phrase that passes judges": re.compile(
        r"^\W*(?:thought process|let['’]?s (?:solve|think|work)\b.{0,40}step by step|solution|reasoning)\W*$",
        re.IGNORECASE,
    ),
}


def suspicions(answer: str, disarmed: str, reference: str | None = None) -> str:
    """What is suspicious about an answer, in words; an empty string if nothing is.

    Args:
        answer: As it was given.
        disarmed: The same with its control tokens broken up.
        reference: The known answer, where there is one.
    """
    if not answer.strip():  # nothing in it that could deceive
        return ""
    found = ["control tokens"] if answer != disarmed else []
    ends = answer if len(answer) <= 2 * _LOOKED_AT else f"{answer[:_LOOKED_AT]}\n{answer[-_LOOKED_AT:]}"
    found += [what for what, pattern in _PATTERNS.items() if pattern.search(ends)]
    if not any(character.isalnum() for character in answer):
        found.append("no letters or digits")
    if reference is not None and _is_short_and_unlike(answer, reference):
        found.append("one or two words that the reference does not have")
    return "; ".join(found)


def _is_short_and_unlike(answer: str, reference: str) -> bool:
    words, expected = _words(answer), _words(reference)
    return 1 <= len(words) <= _FEW_WORDS < len(expected) and not set(words) & set(expected)


def _words(text: str) -> Sequence[str]:
    return _WORD.findall(text.casefold())
