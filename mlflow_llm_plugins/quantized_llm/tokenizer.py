"""The tokenizer of an artifact: found, checked, saved with its chat template."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any

from mlflow_llm_plugins.errors import CheckpointError, InvalidInputError

CHAT_TEMPLATE_FILE = "chat_template.jinja"


def load_tokenizer(folder: Path, *, name: str, trust_remote_code: bool = False) -> Any:
    """The folder's tokenizer.

    Args:
        folder: Where tokenizer.json and its companions are.
        name: What the message calls it: a Hub id or a path.
        trust_remote_code: Whether its own Python code may run.

    Raises:
        CheckpointError: The folder has no tokenizer, or only one that has no fast version.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise CheckpointError(
            f"No tokenizer could be loaded from {name}: {_first_line(error)} "
            "Give one: tokenizer=AutoTokenizer.from_pretrained(...), or a Hub id or directory that has one."
        ) from error
    return check_tokenizer(tokenizer)


def check_tokenizer(tokenizer: Any) -> Any:
    """The tokenizer itself, if the engine can use it.

    Raises:
        CheckpointError: It has no fast version: answers could not be streamed character by character.
        InvalidInputError: It is no tokenizer at all.
    """
    from transformers import PreTrainedTokenizerBase

    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise InvalidInputError(
            f"tokenizer must be a transformers tokenizer, a Hub id or a directory, got {type(tokenizer).__name__}."
        )
    if not getattr(tokenizer, "is_fast", False):
        raise CheckpointError(
            f"{type(tokenizer).__name__} is a slow tokenizer; a fast one is needed. Load it with "
            "AutoTokenizer.from_pretrained(...), which converts most (some need `pip install sentencepiece`)."
        )
    return tokenizer


def save_tokenizer(tokenizer: Any, folder: Path, chat_template: str | None) -> None:
    """Write the tokenizer; `chat_template` stands in for its own. The tokenizer is not changed."""
    tokenizer.save_pretrained(folder)
    if chat_template is not None:  # this file has priority over a template in tokenizer_config.json
        (folder / CHAT_TEMPLATE_FILE).write_text(chat_template, encoding="utf-8")


def with_chat_template(tokenizer: Any, chat_template: str | None) -> Any:
    """The tokenizer, or a copy that has this template; it is not changed itself."""
    if chat_template is None:
        return tokenizer
    copied = copy.deepcopy(tokenizer)
    copied.chat_template = chat_template
    return copied


def check_chat_template(tokenizer: Any, chat_template: str | None) -> None:
    """Render a one-message chat with a template that was given.

    Raises:
        InvalidInputError: It is no string or not valid Jinja, or refuses the message.
    """
    if chat_template is None:
        return
    if not isinstance(chat_template, str):
        raise InvalidInputError(f"chat_template must be a Jinja template as a string, got {chat_template!r}.")
    try:
        tokenizer.apply_chat_template(
            [{"role": "user", "content": "Hello"}],
            chat_template=chat_template,
            tokenize=False,
            add_generation_prompt=True,
        )
    except Exception as error:  # a template can call methods of what it is given, and fail as they do
        raise InvalidInputError(
            f"chat_template cannot render a chat of one user message: {type(error).__name__}: {error}"
        ) from error


def chat_template_of(tokenizer: Any) -> str | None:
    """The template for plain chats; a tokenizer may have several."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    return template or None


def fingerprint(template: str | None) -> str | None:
    """SHA-256 of a chat template, to see whether two models read chats alike."""
    return hashlib.sha256(template.encode()).hexdigest() if template else None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
