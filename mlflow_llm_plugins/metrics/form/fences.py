"""Fenced code blocks of Markdown, found line by line."""

from __future__ import annotations

import re
from dataclasses import dataclass

# As in CommonMark, but with any indentation: models put blocks into lists and quotations, and begin them also in the
# line of a list's marker. No backtick may follow those that open one.
_OPENING = re.compile(
    r"""
    ((?: [ \t>] | (?: [-*+] | [0-9]{1,9}[.)] ) [ \t] )*)
    ( `{3,}(?=[^`]*$) | ~{3,} )
    [ \t]* ([^\s`{]*)
    """,
    re.VERBOSE,
)
_LIST_MARKER = re.compile(r"[^ \t>]")  # each of its characters, before an opening fence


@dataclass(frozen=True, slots=True)
class CodeBlock:
    """A block, without its fences and without what is before them in their lines."""

    language: str  # lower case; "" where none is given
    code: str
    first_line: int  # of the opening fence, counted from 0
    last_line: int  # of the closing fence, or the text's last line where it is missing
    is_list_item: bool = False  # the opening fence stands behind a list's marker


def code_blocks(text: str) -> list[CodeBlock]:
    """The fenced blocks in order; one that is never closed goes on to the end, as in an answer that was cut off."""
    lines = text.split("\n")  # splitlines() would also break at characters that JSON and Python keep in a line
    blocks = []
    number = 0
    while number < len(lines):
        if opening := _OPENING.match(lines[number]):
            block = _block(lines, number, opening)
            blocks.append(block)
            number = block.last_line
        number += 1
    return blocks


def _block(lines: list[str], first: int, opening: re.Match[str]) -> CodeBlock:
    before_fence, fence, language = opening.groups()
    indentation = _LIST_MARKER.sub(" ", before_fence)  # what a list's item has in the lines below its marker
    before = " \t>" if ">" in indentation else " \t"
    last = next((n for n in range(first + 1, len(lines)) if _closes(lines[n].lstrip(before), fence)), None)
    body = lines[first + 1 : last]
    code = "\n".join(line.removeprefix(indentation) for line in body)
    end = len(lines) - 1 if last is None else last
    return CodeBlock(language.lower(), code, first, end, is_list_item=indentation != before_fence)


def _closes(line: str, fence: str) -> bool:
    stripped = line.strip()
    return len(stripped) >= len(fence) and not stripped.strip(fence[0])
