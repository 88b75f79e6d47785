"""Chats to token ids, with the tokenizer's own chat template."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.openai_api.messages import Message


def render_chat(
    tokenizer: Any,
    messages: Sequence[Message],
    chat_template: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> list[int]:
    """Write a conversation as the model was trained to read it, up to where its answer begins.

    Control tokens such as "</s>" that stand in a message are encoded as ordinary text: a user cannot end a
    turn or open one of the system's. Safe to call from any thread.

    Args:
        tokenizer: Not changed.
        messages: From `parse_messages`.
        chat_template: Used instead of the tokenizer's.
        chat_template_kwargs: Variables of the template, for example `enable_thinking`.

    Raises:
        InvalidInputError: There is no template, the template refuses these messages, or a variable has the
            name of an argument of `apply_chat_template`.
    """
    template = _template(tokenizer, chat_template)
    variables = dict(chat_template_kwargs or {})
    parameters = inspect.signature(tokenizer.apply_chat_template).parameters
    if taken := sorted(variables.keys() & parameters.keys()):
        raise InvalidInputError(
            f"chat_template_kwargs cannot set {', '.join(taken)}: these are no template variables."
        )
    try:
        ids = tokenizer.apply_chat_template(
            [_known_role(message, template) for message in messages],
            chat_template=template,
            add_generation_prompt=True,
            sanitize_control_tokens=True,
            tokenize=True,
            return_dict=False,
            **variables,
        )
    except Exception as error:  # templates are programs: besides Jinja's errors they raise any of Python's
        raise InvalidInputError(f"The chat template refuses these messages: {_reason(error, messages)}") from error
    if not ids:
        raise InvalidInputError("The chat template made an empty prompt of these messages.")
    return list(ids)


def _template(tokenizer: Any, chat_template: str | None) -> str:
    if chat_template is None and not getattr(tokenizer, "chat_template", None):
        raise InvalidInputError(
            "This model has no chat template, so it cannot read messages. Log it with chat_template='...', "
            "or send a prompt instead (task 'llm/v1/completions')."
        )
    try:
        return str(tokenizer.get_chat_template(chat_template))
    except ValueError as error:  # several named templates, none of them called default
        raise InvalidInputError(f"The chat template cannot be chosen: {error}") from error


def _known_role(message: Message, template: str) -> Message:
    """OpenAI renamed system to developer; most templates know only the old name."""
    if message["role"] == "developer" and "developer" not in template:
        return {**message, "role": "system"}
    return message


def _reason(error: Exception, messages: Sequence[Message]) -> str:
    """The template's own words, unless they repeat what was said."""
    said = [message["content"] for message in messages if message.get("content")]
    text = str(error)
    return type(error).__name__ if any(content in text for content in said) else text or type(error).__name__
