"""Token ids of options, written as the tokenizer would write them behind their prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError

_LONGEST_TAIL = 16  # tokens of a prompt's end that an option may change


class ChoiceWriter:
    """Tokenises options with their whole prompt; prompts of one run end alike, so that is done once.

    Alone, options may become other tokens than those that the model has learned to write: behind a prompt that ends in
    "assistant: " the word Yes joins the blank. Such a blank moves from the stem into what is scored of all options.
    Where the tokens of one option begin those of another, all get an end token: the model makes an option likely when
    it is about to write a longer one, and only the end tells the two apart.
    """

    def __init__(
        self,
        encode: Callable[[Sequence[str]], list[list[int]]],
        tokenizer: Any,
        end_of_turn: Callable[[], int | None],
    ) -> None:
        """Begin.

        Args:
            encode: Prompts to token ids.
            tokenizer: The one behind it, which is not changed.
            end_of_turn: Finds the token by which the model ends an answer.
        """
        self._encode = encode
        self._tokenizer = tokenizer
        self._end_of_turn = end_of_turn
        self._known: dict[tuple[tuple[int, ...], tuple[str, ...]], tuple[int, list[list[int]]]] = {}

    def write(self, text: str, prompt: list[int], labels: Sequence[str]) -> tuple[list[int], list[list[int]]]:
        """Split a prompt and its options into what all share and what is scored of each.

        Args:
            text: The prompt.
            prompt: Its token ids.
            labels: Distinct texts, at least one.

        Returns:
            The stem, and a tail for each label; none is empty or begins another one.

        Raises:
            InvalidInputError: The tokenizer cannot write the options so that they differ, or behind this prompt.
        """
        key = tuple(prompt[-_LONGEST_TAIL:]), tuple(labels)
        if key not in self._known:
            self._known[key] = self._written(text, prompt, labels)
        changed, tails = self._known[key]
        return prompt[: len(prompt) - changed], tails

    def _written(self, text: str, prompt: list[int], labels: Sequence[str]) -> tuple[int, list[list[int]]]:
        """How many tokens at the prompt's end some option changes, and the tails of all options."""
        ids = self._encode([text + label for label in labels])
        agreed = _common_length([prompt, *ids])
        changed = len(prompt) - agreed
        if changed > _LONGEST_TAIL or agreed == 0:
            raise InvalidInputError(
                f"The judge's tokenizer writes the last {changed} tokens of a prompt otherwise where a verdict such "
                f"as {labels[0].strip()!r} follows, so that probabilities cannot be compared. Take another judge."
            )
        self._check(labels, prompt, agreed, ids)
        return changed, self._told_apart(labels, [of_label[agreed:] for of_label in ids])

    def _check(self, labels: Sequence[str], prompt: list[int], agreed: int, written: Sequence[list[int]]) -> None:
        seen: set[tuple[int, ...]] = set()
        unknown = getattr(self._tokenizer, "unk_token_id", None)
        for label, ids in zip(labels, written, strict=True):
            tail = tuple(ids[agreed:])
            dropped = ids == prompt[: len(ids)]
            if dropped or tail in seen or (unknown is not None and unknown in tail):
                raise InvalidInputError(
                    f"The judge's tokenizer has no tokens of its own for the verdict {label.strip()!r}. Name the "
                    "options of the scale by other words, or take another judge."
                )
            seen.add(tail)

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
