"""The text around the code in Markdown, as language models write it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mlflow_llm_plugins.metrics.form.fences import code_blocks

_END_OF_PARAGRAPH = re.compile(r"(\n[ \t\r]*\n)")
_BACKTICKS = re.compile("`+")


def without_code(text: str) -> str:
    """The text without fenced code blocks, closed or not, and without inline code.

    Indented blocks stay: in answers of models indentation is rarely meant as code.
    """
    prose = _without_blocks(text)
    return "".join(_without_inline_code(paragraph) for paragraph in _END_OF_PARAGRAPH.split(prose))


def _without_blocks(text: str) -> str:
    """An empty line, which parts paragraphs, for each block."""
    lines = text.split("\n")
    for block in reversed(code_blocks(text)):
        lines[block.first_line : block.last_line + 1] = [""]
    return "\n".join(lines)


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
