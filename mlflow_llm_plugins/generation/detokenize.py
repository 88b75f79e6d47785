"""Token ids to text while they arrive: whole characters only, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers.decoders import DecodeStream

_REPLACEMENT = "\ufffd"


_CONTEXT = 8  # tokens before the answer that decide how it begins, for example with a space


class Detokenizer:
    """The text of one answer; `push` and `flush` return the part that became certain."""

    def __init__(self, tokenizer: Any, stop: tuple[str, ...] = (), prompt_ids: Sequence[int] = ()) -> None:
        """Start an empty answer.

        Args:
            tokenizer: A fast tokenizer; special tokens are left out of the text.
            stop: The text ends before the first of these.
            prompt_ids: What the answer continues; sentencepiece tokenizers drop a space at the start of a text,
                which the answer is not.
        """
        self._tokenizer = tokenizer
        self._stop = StopStrings(stop)
        context = list(prompt_ids[-_CONTEXT:])
        if self._decode(context).endswith(_REPLACEMENT):  # the prompt ends inside a character
            context = []
        self._restart(context)

    @property
    def stopped(self) -> bool:
        """Whether a stop string was met; the text ends before it."""
        return self._stop.met

    def push(self, token_id: int) -> str:
        """Add a token; "" while a character or a possible stop string is incomplete."""
        self._ids.append(token_id)
        try:
            piece = self._stream.step(self._tokenizer._tokenizer, token_id) or ""
        except Exception:  # a byte that fits nothing changed what its neighbours decode to (byte fallback)
            rest = self._rest(self._ids[:-1])
            self._restart([])
            return self._stop.push(rest) + self.push(token_id)
        self._text += piece
        return self._stop.push(piece)

    def flush(self) -> str:
        """What was still held back at the end of the answer; a cut-off character becomes U+FFFD."""
        return self._stop.push(self._rest(self._ids)) + self._stop.flush()

    def _restart(self, context: list[int]) -> None:
        """Decode from here on; the ids of the context are not part of the text."""
        self._stream = DecodeStream(context, skip_special_tokens=True)
        self._ids = context
        self._text = self._decode(context)  # what the stream has given, the context's text included

    def _rest(self, ids: list[int]) -> str:
        """What the stream still holds of these ids."""
        whole = self._decode(ids)
        return whole[len(self._text) :] if whole.startswith(self._text) else _REPLACEMENT

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


class StopStrings:
    """Lets text through up to the stop string that ends first, however the text is cut into pieces."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        self._stop = stop
        self._held = ""  # may be the beginning of a stop string
        self.met = False

    def push(self, piece: str) -> str:
        """The text that is certain not to belong to a stop string."""
        if self.met or not piece:
            return ""
        text = self._held + piece
        found = [(text.find(stop) + len(stop), stop) for stop in self._stop if stop in text]
        if found:
            end, stop = min(found, key=lambda match: (match[0], -len(match[1])))
            self.met, self._held = True, ""
            return text[: end - len(stop)]
        keep = len(text) - self._longest_beginning(text)
        self._held = text[keep:]
        return text[:keep]

    def flush(self) -> str:
        """What was held back, now that nothing can follow."""
        held, self._held = self._held, ""
        return held

    def _longest_beginning(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        longest = max((len(stop) - 1 for stop in self._stop), default=0)
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stop):
                return length
        return 0
