"""Texts as token ids, as an engine's `score` makes them of strings, with the bytes that are scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlflow_llm_plugins.metrics.metric import NotScoredError, text_of

START_TOKEN = "at the start of each text, where the tokenizer adds one; later windows begin with text"


@dataclass(frozen=True, slots=True)
class TokenText:
    """One text, with the start tokens before it."""

    ids: list[int]
    first: int  # index of the first token with a score: behind the start tokens, and never 0
    byte_count: int  # in UTF-8, without the first token's if that is one of the text, which nothing predicts

    @property
    def scored(self) -> int:
        """Tokens with a score; none or less: the text is too short."""
        return len(self.ids) - self.first


class TextEncoder:
    """Puts start tokens before a text where the tokenizer does so itself, once, also where windows follow."""

    def __init__(self, tokenizer: Any) -> None:
        """Find out with which special tokens this tokenizer begins a text."""
        self._tokenizer = tokenizer
        self._start = _start_tokens(tokenizer)

    def encode(self, text: str) -> TokenText:
        """Token ids; start tokens that were written into the text are not put there twice."""
        # verbose: the library would warn of texts beyond the context, which come in windows
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids = list(encoded["input_ids"])
        written, first = ids[: len(self._start)] == self._start, max(1, len(self._start))
        if not written:
            return TokenText(self._start + ids, first, len(text.encode()))
        return TokenText(ids, first, _bytes_from(first, text, encoded) if first < len(ids) else 0)


def _start_tokens(tokenizer: Any) -> list[int]:
    """Those before a text; a text must follow, because some tokenizers add nothing to an empty one."""
    whole, text = list(tokenizer("a").input_ids), list(tokenizer("a", add_special_tokens=False).input_ids)
    starts = (start for start in range(len(whole)) if whole[start : start + len(text)] == text)
    return whole[: next(starts, 0)]


def _bytes_from(first: int, text: str, encoded: Any) -> int:
    """Bytes behind the token before `first`, also the rest of a character of which that token has a part."""
    before, own = encoded["offset_mapping"][first - 1 : first + 1]  # in characters
    end = before[1]
    behind = len(text[end:].encode())
    if own[0] >= end:
        return behind
    character = text[end - 1]
    return behind + len(character.encode()) - _bytes_begun(encoded.tokens()[first - 1], character)


def _bytes_begun(token: str, character: str) -> int:
    """How many bytes of the character the token ends with; none where the tokenizer put something else there."""
    from tokenizers.pre_tokenizers import ByteLevel

    encoded = character.encode()
    if token == f"<0x{encoded[0]:02X}>":  # of tokenizers that fall back to bytes
        return 1
    ((letters, _),) = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(character)
    return max(count for count in range(len(encoded)) if token.endswith(letters[:count]))


def encode_cells(
    cells: Sequence[object], name: str, tokenizer: Any
) -> tuple[list[TokenText | None], list[str | None]]:
    """Encode cells one by one, also those that are too short for a score.

    Args:
        cells: Of one column.
        name: What a cell is called in reasons.
        tokenizer: A fast one.

    Returns:
        A text a cell, None where there is none, and the reason there.
    """
    encoder = TextEncoder(tokenizer)
    found = [_encoded(encoder, cell, name) for cell in cells]
    return [text for text, _ in found], [reason for _, reason in found]


def drop_short(
    texts: Sequence[TokenText | None], reasons: Sequence[str | None], name: str
) -> tuple[list[TokenText | None], list[str | None]]:
    """The same without texts of which no token can be scored, and the reason there.

    Args:
        texts: As `encode_cells` gives them.
        reasons: As `encode_cells` gives them.
        name: What a cell is called in reasons.
    """
    short = [_why_short(text, name) if text else None for text in texts]
    kept = [None if why else text for why, text in zip(short, texts, strict=True)]
    return kept, [why or reason for why, reason in zip(short, reasons, strict=True)]


def _why_short(text: TokenText, name: str) -> str | None:
    if text.scored >= 1:
        return None
    return f"the {name} has {len(text.ids)} of the at least {text.first + 1} tokens that a score needs"


def _encoded(encoder: TextEncoder, cell: object, name: str) -> tuple[TokenText | None, str | None]:
    try:
        return encoder.encode(text_of(cell, name)), None
    except NotScoredError as reason:
        return None, str(reason)
    except Exception as error:  # of a tokenizer, on what is no Unicode text; its message may repeat the text
        return None, f"the {name} cannot be tokenised ({type(error).__name__})"
