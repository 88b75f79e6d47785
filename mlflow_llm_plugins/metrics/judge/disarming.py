"""Control tokens in texts that are judged, broken up so that no tokenizer reads them as such.

A tokenizer turns "</s>" in an answer into the real end of the text, and what follows could pass for orders of the
system. A blank behind the first character leaves the text readable and makes ordinary tokens of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby

# What many chat formats write; a remote judge does not tell which of them its tokenizer knows. Shapes where ordinary
# text has none of them, and words where code or markup have the same shape: <xs:element>, [|x|], <T>.
_NAME = r"/?[A-Za-z][\w▁.:-]{1,58}"
_GENERIC = re.compile(
    r"<[|｜][^\s<>]{1,60}?[|｜]>"  # <|im_end|>, <|eot_id|>, <｜User｜>
    rf"|<[|｜]{_NAME}>|<{_NAME}[|｜]>|｜DSML｜"  # <|turn>, <turn|>
    r"|<\[?\w{1,30}(?:▁\w{1,30})+\]?>"  # <[end▁of▁sentence]>
    r"|◁/?\w{2,40}▷"  # ◁think▷
    r"|</?s>|<(?:bos|eos|pad|unk|mask|sop|eop|eod|eot|eoh|eoa)>"
    r"|<(?:start|end|begin|beginning)_of_(?:turn|text|image|audio|video|utterance|sentence)>"
    r"|<(?:start|end)_function_(?:declaration|call|response)>|<im_(?:start|end)>"
    r"|<(?:SPECIAL|TOKENS_UNUSED|reserved|unused|extra_id)_?\d{1,5}>"
    r"|</?(?:think|tool_call|tool_response|tools)>|</?(?:seed|minimax):\w{1,40}>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|THINK)\]"
    r"|\[(?:[gs]?MASK|CLS|SEP|PAD|UNK|BOS|EOS)\]"
    r"|\[\|(?:system|user|assistant|tool|endofturn)\|\]|\]~!?b[\[\]]|\[e~\["  # of EXAONE and MiniMax
    r"|<</?SYS>>"
)
_SHARED = 12  # characters at the beginning of tokens that a pattern shares
_ROUNDS = 8  # a blank may complete another token, whose breaking may complete a third; more is nobody's accident


def is_generic(token: str) -> bool:
    """Whether many chat formats use the token."""
    return _GENERIC.fullmatch(token) is not None


class Disarmer:
    """Breaks up control tokens: a generic list, and those of the judge's own tokenizer."""

    def __init__(self, tokens: Iterable[str] = ()) -> None:
        """Take the tokens of the judge; of one character there is nothing to break."""
        own = _any_of(sorted({token for token in tokens if len(token) > 1}))
        self._pattern = re.compile(f"{_GENERIC.pattern}|{own}") if own else _GENERIC

    def disarm(self, text: str) -> str:
        """The text without control tokens; the same text where it has none."""
        for _ in range(_ROUNDS):
            disarmed = self._pattern.sub(_broken, text)
            if disarmed == text:
                break
            text = disarmed
        return text


def _any_of(texts: Sequence[str], depth: int = _SHARED) -> str:
    """A pattern for sorted texts that tries what they begin with once: some tokenizers have thousands of tokens."""
    if depth == 0:
        return "|".join(map(re.escape, reversed(texts)))  # what another one begins with comes after it
    parts = []
    for first, group in groupby(filter(None, texts), key=lambda text: text[0]):
        rests = [text[1:] for text in group]
        ends = "?" if "" in rests else ""
        parts.append(f"{re.escape(first)}(?:{_any_of(rests, depth - 1)}){ends}")
    return "|".join(parts)


def _broken(match: re.Match[str]) -> str:
    token = match.group()
    return f"{token[0]} {token[1:]}"
