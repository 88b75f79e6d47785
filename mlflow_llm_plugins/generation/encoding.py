"""Strings to token ids for scoring: start tokens once, and choices tokenised jointly with their prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.generation.engine import Text
from mlflow_llm_plugins.generation.scoring.choice_tree import ChoiceRow, common_prefix

_NO_CHOICES = "choose() needs at least one choice, got none."


def refuse_slow_tokenizer(tokenizer: Any) -> None:
    """Raise unless the tokenizer is a fast one, which alone can give text token by token.

    Raises:
        InvalidInputError: None, or a tokenizer written in Python.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise InvalidInputError(
            f"The engine needs a fast tokenizer (a tokenizer.json file), got {type(tokenizer).__name__}. "
            "Load it with AutoTokenizer.from_pretrained(...)."
        )


class Encoder:
    """Turns what callers of `score` and `choose` give into token ids."""

    def __init__(self, tokenizer: Any) -> None:
        """Find out with which special tokens this tokenizer begins a text."""
        self._tokenizer = tokenizer
        self._start = _start_tokens(tokenizer)

    def encode(self, text: Text) -> list[int]:
        """Token ids as they are; a string with the start tokens, unless they were written into the text."""
        if not isinstance(text, str):
            return [int(token_id) for token_id in text]
        ids: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        return ids if ids[: len(self._start)] == self._start else self._start + ids

    def choice_rows(
        self, prompts: Sequence[Text], choices: Sequence[Text] | Sequence[Sequence[Text]]
    ) -> list[ChoiceRow]:
        """Pair each prompt with its choices and split them into stem and tails."""
        return [self._split(prompt, own) for prompt, own in zip(prompts, _for_each(prompts, choices), strict=True)]

    def _split(self, prompt: Text, choices: Sequence[Text]) -> ChoiceRow:
        """Where prompt and choices tokenise together, the stem ends before the first token that differs."""
        if not choices:
            raise InvalidInputError(_NO_CHOICES)
        whole = [self._joined(prompt, choice) for choice in choices]
        stem = common_prefix([self.encode(prompt), *whole])
        shortest = min(len(ids) for ids in whole)
        stem = stem[: shortest - 1]  # a choice that begins another one still has a token of its own
        if not stem:
            raise InvalidInputError(
                "choose() needs a prompt of at least one token before the choices; this one is empty."
            )
        return ChoiceRow(stem, [ids[len(stem) :] for ids in whole])

    def _joined(self, prompt: Text, choice: Text) -> list[int]:
        if len(choice) == 0:
            raise InvalidInputError("A choice is empty: each needs at least one token to be scored.")
        if isinstance(prompt, str) and isinstance(choice, str):
            return self.encode(prompt + choice)
        tail = self._tokenizer(choice, add_special_tokens=False).input_ids if isinstance(choice, str) else choice
        return [*self.encode(prompt), *(int(token_id) for token_id in tail)]


def _start_tokens(tokenizer: Any) -> list[int]:
    """Those before a text; a text must follow, because some tokenizers add nothing to an empty one."""
    whole, text = list(tokenizer("a").input_ids), list(tokenizer("a", add_special_tokens=False).input_ids)
    starts = (start for start in range(len(whole)) if whole[start : start + len(text)] == text)
    return whole[: next(starts, 0)]


def _for_each(prompts: Sequence[Text], choices: Sequence[Text] | Sequence[Sequence[Text]]) -> Sequence[Sequence[Text]]:
    """One sequence of choices a prompt, whether they were given once or for each."""
    if not choices:
        raise InvalidInputError(_NO_CHOICES)
    shared = all(isinstance(choice, str) or _are_ids(choice) for choice in choices)
    if shared:
        return [choices] * len(prompts)  # type: ignore[list-item]
    if len(choices) != len(prompts):
        raise InvalidInputError(
            f"choose() got {len(prompts)} prompts and {len(choices)} sequences of choices: "
            "give one sequence for all prompts, or one for each."
        )
    return choices  # type: ignore[return-value]


def _are_ids(choice: Any) -> bool:
    return len(choice) > 0 and not isinstance(choice[0], str) and not hasattr(choice[0], "__len__")
