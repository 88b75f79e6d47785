"""Token ids of options, written as the tokenizer would write them behind their prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError

_LONGEST_TAIL = 16  # tokens of a prompt's end that are written again with each option


class ChoiceWriter:
    """Tokenises options jointly with the end of their prompt; prompts of one run end alike, so that is done once.

    Alone, options may become other tokens than those that the model has learned to write: behind a prompt that ends in
    "assistant: " the word Yes joins the blank. Such a blank moves from the stem into what is scored of all options.
    Where the tokens of one option begin those of another, all get an end token: the model makes an option likely when
    it is about to write a longer one, and only the end tells the two apart.
    """

    def __init__(self, tokenizer: Any, end_of_turn: Callable[[], int | None]) -> None:
        """Take the tokenizer, which is not changed, and what finds the token by which the model ends an answer."""
        self._tokenizer = tokenizer
        self._end_of_turn = end_of_turn
        self._known: dict[tuple[tuple[int, ...], tuple[str, ...]], tuple[int, int, list[list[int]]]] = {}

    def write(self, prompt: list[int], labels: Sequence[str]) -> tuple[list[int], list[list[int]]]:
        """Split a prompt and its options into what all share and what is scored of each.

        Args:
            prompt: Token ids, more than are written again.
            labels: Distinct texts, at least one.

        Returns:
            The stem, and a tail for each label; none is empty or begins another one.

        Raises:
            InvalidInputError: The tokenizer cannot write the options so that they differ.
        """
        key = tuple(prompt[-_LONGEST_TAIL:]), tuple(labels)
        if key not in self._known:
            self._known[key] = self._written(prompt, labels)
        length, agreed, tails = self._known[key]
        return prompt[: len(prompt) - length + agreed], tails

    def _written(self, prompt: list[int], labels: Sequence[str]) -> tuple[int, int, list[list[int]]]:
        """Tokens of the tail that was written again, how many of them all options keep, and their tails."""
        tail = self._tail_that_can_be_written(prompt)
        ids = self._encode([self._decode(tail) + label for label in labels])
        agreed = _common_length([tail, *ids])
        self._check(labels, tail, agreed, ids)
        return len(tail), agreed, self._told_apart(labels, [of_label[agreed:] for of_label in ids])

    def _tail_that_can_be_written(self, prompt: list[int]) -> list[int]:
        """The longest end of the prompt that is made of the same tokens when it is written alone; none if no end is.

        The first token of the prompt stays in the stem.
        """
        for length in range(min(_LONGEST_TAIL, len(prompt) - 1), 0, -1):
            tail = prompt[-length:]
            if self._encode([self._decode(tail)]) == [tail]:
                return tail
        return []

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        ids = self._tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return [list(of_text) for of_text in ids]

    def _decode(self, ids: list[int]) -> str:
        if not ids:
            return ""
        decoded = self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(decoded)

    def _check(self, labels: Sequence[str], tail: list[int], agreed: int, written: Sequence[list[int]]) -> None:
        seen: set[tuple[int, ...]] = set()
        unknown = getattr(self._tokenizer, "unk_token_id", None)
        for label, ids in zip(labels, written, strict=True):
            dropped = ids == tail[: len(ids)]
            if dropped or tuple(ids) in seen or (unknown is not None and unknown in ids[agreed:]):
                raise InvalidInputError(
                    f"The judge's tokenizer has no tokens of its own for the verdict {label.strip()!r}. Name the "
                    "options of the scale by other words, or take another judge."
                )
            seen.add(tuple(ids))

    def _told_apart(self, labels: Sequence[str], tails: list[list[int]]) -> list[list[int]]:
        ordered = sorted(tails)  # what begins with a tail follows it at once
        if not any(after[: len(before)] == before for before, after in pairwise(ordered)):
            return tails
        end = self._end_of_turn()
        if end is None:
            raise InvalidInputError(
                f"Verdicts such as {', '.join(label.strip() for label in labels[:3])} begin one another in the "
                "judge's tokens, and its tokenizer has no end token to tell them apart. Name them by other words."
            )
        return [[*tail, end] for tail in tails]


def _common_length(sequences: Sequence[Sequence[int]]) -> int:
    """Tokens in which all sequences agree from their beginning."""
    length = min(map(len, sequences))
    return next((i for i in range(length) if len({ids[i] for ids in sequences}) > 1), length)
