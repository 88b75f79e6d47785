"""Texts as token ids, as an engine's `score` makes them of strings, with the bytes that are scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlflow_llm_plugins.metrics.metric import NotScoredError, text_of

START_TOKEN = "at the start of each text, where the tokenizer adds one; later windows begin with text"


@dataclass(frozen=True, slots=True)
class TokenText:
    """One text; all tokens but the first one are scored."""

    ids: list[int]
    byte_count: int  # in UTF-8, without the first token's if that is one of the text, which nothing predicts

    @property
    def scored(self) -> int:
        """Tokens with a score."""
        return len(self.ids) - 1


class TextEncoder:
    """Puts the start token before a text where the tokenizer does so itself, once, also where windows follow."""

    def __init__(self, tokenizer: Any) -> None:
        """Find out whether this tokenizer begins a text with a special token."""
        self._tokenizer = tokenizer
        empty = tokenizer("").input_ids
        bos = tokenizer.bos_token_id
        self._start = [bos] if bos is not None and list(empty[:1]) == [bos] else []

    def encode(self, text: str) -> TokenText:
        """Token ids; a start token that was written into the text is not put there twice."""
        # verbose: the library would warn of texts beyond the context, which come in windows
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids, offsets = list(encoded["input_ids"]), encoded["offset_mapping"]
        if self._start and ids[:1] != self._start:
            return TokenText(self._start + ids, len(text.encode()))
        unscored = offsets[0][1] if ids else 0
        return TokenText(ids, len(text[unscored:].encode()))


def encode_cells(
    cells: Sequence[object], name: str, tokenizer: Any
) -> tuple[list[TokenText | None], list[str | None]]:
    """Encode cells one by one.

    Args:
        cells: Of one column.
        name: What a cell is called in reasons.
        tokenizer: A fast one, or any that gives offsets.

    Returns:
        A text a cell, None where there is nothing to score, and the reason there.
    """
    encoder = TextEncoder(tokenizer)
    found = [_encoded(encoder, cell, name) for cell in cells]
    return [text for text, _ in found], [reason for _, reason in found]


def _encoded(encoder: TextEncoder, cell: object, name: str) -> tuple[TokenText | None, str | None]:
    try:
        text = encoder.encode(text_of(cell, name))
    except NotScoredError as reason:
        return None, str(reason)
    except Exception as error:  # of a tokenizer, on what is no Unicode text; its message may repeat the text
        return None, f"the {name} cannot be tokenised ({type(error).__name__})"
    if text.scored < 1:
        return None, f"the {name} has {len(text.ids)} of the at least 2 tokens that a score needs"
    return text, None
