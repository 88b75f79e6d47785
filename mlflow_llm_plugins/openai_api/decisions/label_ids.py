"""Token ids of labels, written as the tokenizer would write them behind their prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from mlflow_llm_plugins.errors import UnsupportedFeatureError

_LONGEST_TAIL = 16  # tokens of a prompt's end that are written again with each label


@dataclass(frozen=True, slots=True)
class LabelIds:
    """A prompt and its labels, split so that each label's log-probability is that of its tail behind the stem."""

    stem: list[int]
    tails: list[list[int]]  # one a label, never empty; none begins another


def label_ids(tokenizer: Any, prompt: Sequence[int], labels: Sequence[str]) -> LabelIds:
    """Tokenise labels jointly with the end of their prompt.

    Alone they may become other tokens than those that the model has learned to write: behind a prompt that ends in
    "assistant: " the letter A joins the blank. Such a blank moves from the stem into the tails of all labels.

    Where the tokens of one label begin those of another one, all get the tokenizer's end token behind them: the model
    makes a label likely when it is about to write a longer one, and only an end tells the two apart.

    Args:
        tokenizer: Not changed.
        prompt: Token ids of a rendered chat.
        labels: Distinct texts, at least one.

    Raises:
        UnsupportedFeatureError: The tokenizer cannot write a label, or not so that it differs from the others.
    """
    prompt = list(prompt)
    tail = _tail_that_can_be_written(tokenizer, prompt)
    texts = [_decode(tokenizer, tail) + label for label in labels]
    written = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    agreed = _common_length([tail, *written])
    _check(tokenizer, labels, tail, agreed, written)
    stem = prompt[: len(prompt) - len(tail) + agreed]
    return LabelIds(stem, _told_apart(tokenizer, labels, [list(ids[agreed:]) for ids in written]))


def _tail_that_can_be_written(tokenizer: Any, prompt: list[int]) -> list[int]:
    """The longest end of the prompt that is made of the same tokens when it is written alone; none if no end is.

    Text may encode differently where its beginning is cut, and control tokens that a user wrote stay text only in
    their chat. The first token of the prompt stays in the stem.
    """
    for length in range(min(_LONGEST_TAIL, len(prompt) - 1), 0, -1):
        tail = prompt[-length:]
        if tokenizer(_decode(tokenizer, tail), add_special_tokens=False, verbose=False)["input_ids"] == tail:
            return tail
    return []


def _decode(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)) if ids else ""


def _check(tokenizer: Any, labels: Sequence[str], tail: list[int], agreed: int, written: Sequence[list[int]]) -> None:
    seen: set[tuple[int, ...]] = set()
    for label, ids in zip(labels, written, strict=True):
        dropped = ids == tail[: len(ids)]
        if dropped or tuple(ids) in seen or tokenizer.unk_token_id in ids[agreed:]:
            raise UnsupportedFeatureError(
                f"This model's tokenizer has no tokens of its own for the label {label!r}, so questions that are "
                f"answered with {', '.join(labels[:3])} cannot be asked."
            )
        seen.add(tuple(ids))


def _told_apart(tokenizer: Any, labels: Sequence[str], tails: list[list[int]]) -> list[list[int]]:
    ordered = sorted(tails)  # what begins with a tail follows it at once
    if not any(after[: len(before)] == before for before, after in pairwise(ordered)):
        return tails
    if tokenizer.eos_token_id is None:
        raise UnsupportedFeatureError(
            f"Labels such as {', '.join(labels[:3])} begin one another in this model's tokens, and its tokenizer has "
            "no end token to tell them apart."
        )
    return [[*tail, int(tokenizer.eos_token_id)] for tail in tails]


def _common_length(sequences: Sequence[Sequence[int]]) -> int:
    """Tokens in which all sequences agree from their beginning."""
    length = min(map(len, sequences))
    return next((i for i in range(length) if len({ids[i] for ids in sequences}) > 1), length)
