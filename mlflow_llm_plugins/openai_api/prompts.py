"""The `prompt` of a completion: texts or token ids, one or several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError

Prompt = str | tuple[int, ...]

_ALLOWED = "a string, a list of strings, a list of token ids, or a list of such lists"


def parse_prompts(raw: object) -> tuple[Prompt, ...]:
    """Read `prompt` in each of the forms that OpenAI's API takes.

    Raises:
        InvalidInputError: None of the forms, or nothing in it; the message never shows the prompt.
    """
    if isinstance(raw, str):
        return (raw,)
    if not isinstance(raw, list | tuple):
        raise InvalidInputError(f"prompt must be {_ALLOWED}, got {type(raw).__name__}.", param="prompt")
    if not raw:
        raise InvalidInputError("prompt must have at least one prompt, got an empty list.", param="prompt")
    if _are_ids(raw):
        return (tuple(raw),)
    return tuple(_prompt(item, i) for i, item in enumerate(raw))


def encode_prompt(tokenizer: Any, prompt: Prompt) -> list[int]:
    """Token ids of a raw prompt: text with the special tokens that the tokenizer adds, ids as they are.

    Control tokens written in the text count as such: a raw prompt is the whole input of the model.

    Raises:
        InvalidInputError: The prompt has no tokens.
    """
    ids = list(tokenizer(prompt, verbose=False)["input_ids"]) if isinstance(prompt, str) else list(prompt)
    if not ids:
        raise InvalidInputError("The prompt is empty: it has no tokens. Give at least one.", param="prompt")
    return ids


def _prompt(item: object, index: int) -> Prompt:
    if isinstance(item, str):
        return item
    if isinstance(item, list | tuple) and _are_ids(item):
        return tuple(item)
    raise InvalidInputError(
        f"prompt must be {_ALLOWED}; prompt[{index}] is {type(item).__name__}.", param=f"prompt[{index}]"
    )


def _are_ids(items: Sequence[object]) -> bool:
    return all(isinstance(item, int) and not isinstance(item, bool) for item in items)
