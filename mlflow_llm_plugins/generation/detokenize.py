"""Token ids to text while they arrive: whole characters only, and nothing of a stop string."""

from __future__ import annotations

from typing import Any

from tokenizers.decoders import DecodeStream


class Detokenizer:
    """The text of one answer; `push` and `flush` return the part that became certain."""

    def __init__(self, tokenizer: Any, stop: tuple[str, ...] = ()) -> None:
        """Start an empty answer.

        Args:
            tokenizer: A fast tokenizer; special tokens are left out of the text.
            stop: The text ends before the first of these.
        """
        self._tokenizer = tokenizer
        self._stream = DecodeStream([], skip_special_tokens=True)
        self._stop = StopStrings(stop)
        self._ids: list[int] = []
        self._decoded = 0  # characters that the stream has given so far

    @property
    def stopped(self) -> bool:
        """Whether a stop string was met; the text ends before it."""
        return self._stop.met

    def push(self, token_id: int) -> str:
        """Add a token; "" while a character or a possible stop string is incomplete."""
        self._ids.append(token_id)
        piece = self._stream.step(self._tokenizer._tokenizer, token_id) or ""
        self._decoded += len(piece)
        return self._stop.push(piece)

    def flush(self) -> str:
        """What was still held back at the end of the answer; a cut-off character becomes U+FFFD."""
        text = self._tokenizer.decode(self._ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        tail = self._stop.push(text[self._decoded :])
        return tail + self._stop.flush()


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
