"""Code in Markdown, as language models write it, and the text around it."""

from __future__ import annotations

import re
from collections.abc import Iterator

# A block ends with a fence of the same sign that is at least as long, or with the text. Fences may be indented by any
# amount and quoted, as in lists and quotations.
_BLOCK = re.compile(
    r"^[ \t>]*(?P<fence>`{3,}(?=[^`\n]*$)|~{3,}(?!~))[^\n]*$.*?(?:^[ \t>]*(?P=fence)[`~]*[ \t\r]*$|\Z)",
    re.MULTILINE | re.DOTALL,
)
_END_OF_PARAGRAPH = re.compile(r"(\n[ \t\r]*\n)")
_BACKTICKS = re.compile("`+")


def without_code(text: str) -> str:
    """The text without fenced code blocks, closed or not, and without inline code.

    Indented blocks stay: in answers of models indentation is rarely meant as code.
    """
    prose = _BLOCK.sub("\n", text)
    return "".join(_without_inline_code(paragraph) for paragraph in _END_OF_PARAGRAPH.split(prose))


def _without_inline_code(paragraph: str) -> str:
    return " ".join(_between_inline_code(paragraph))


def _between_inline_code(paragraph: str) -> Iterator[str]:
    """What is outside spans that begin and end with as many backticks; backticks without a partner are text.

    Takes time in proportion to the text, which one regular expression for a span would not.
    """
    runs = list(_BACKTICKS.finditer(paragraph))
    position = 0
    for run, partner in zip(runs, _partners(runs), strict=True):
        if partner and run.start() >= position:
            yield paragraph[position : run.start()]
            position = partner.end()
    yield paragraph[position:]


def _partners(runs: list[re.Match[str]]) -> list[re.Match[str] | None]:
    """For each run of backticks the next one of the same length."""
    partners: list[re.Match[str] | None] = []
    following: dict[int, re.Match[str]] = {}
    for run in reversed(runs):
        length = len(run[0])
        partners.append(following.get(length))
        following[length] = run
    return partners[::-1]
