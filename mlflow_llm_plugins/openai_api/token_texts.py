"""What single tokens stand for: exact bytes, also where a token is a part of a character."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

_REPLACEMENT = "\ufffd"
_FALLBACK = re.compile("<0x([0-9A-F]{2})>")  # a byte, as sentencepiece vocabularies write it


@dataclass(frozen=True, slots=True)
class TokenText:
    """How one token is written, and the bytes that it adds to a text."""

    name: str  # the text itself; bytes that are no characters as `\xe2`; a special token as it is called
    bytes: bytes | None  # None: a special token, which no text has

    @property
    def is_whole(self) -> bool:
        """Whether it has no part of a character."""
        return self.bytes is None or self.bytes.decode("utf-8", "ignore").encode() == self.bytes


class TokenTexts:
    """The `TokenText` of each token of one tokenizer, kept once it was read; safe to use from many threads."""

    def __init__(self, tokenizer: Any) -> None:
        """Take a fast tokenizer, which is not changed."""
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.items()
        self._special = {*tokenizer.all_special_ids, *(token_id for token_id, token in added if token.special)}
        self._read: dict[int, TokenText] = {}

    def __getitem__(self, token_id: int) -> TokenText:
        """Any token that a model can pick, also one that the tokenizer does not know."""
        if (text := self._read.get(token_id)) is None:
            text = self._read[token_id] = self._text_of(token_id)
        return text

    def _text_of(self, token_id: int) -> TokenText:
        piece = self._tokenizer.convert_ids_to_tokens(token_id)
        if piece is None:  # models are often wider than their vocabulary
            return TokenText(f"token_id:{token_id}", b"")
        if token_id in self._special:
            return TokenText(piece, None)
        content = self._content(token_id, piece)
        return TokenText(content.decode("utf-8", "backslashreplace"), content)

    def _content(self, token_id: int, piece: str) -> bytes:
        """Decoded behind itself, as some tokenizers drop a space at the start of a text."""
        once, twice = (self._decode([token_id] * count) for count in (1, 2))
        return _piece_bytes(piece) if _REPLACEMENT in twice else twice[len(once) :].encode()

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text


def _piece_bytes(piece: str) -> bytes:
    """Of a token that is no text on its own, as its vocabulary writes it."""
    if byte := _FALLBACK.fullmatch(piece):
        return bytes([int(byte[1], 16)])
    try:
        return bytes(_BYTE_LEVEL[character] for character in piece)
    except KeyError:  # an added token, which stands in the vocabulary as it is
        return piece.encode()


def _byte_level() -> dict[str, int]:
    """The characters that GPT-2's kind of vocabulary writes for bytes: visible ones as they are in Latin-1."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_LEVEL = _byte_level()
