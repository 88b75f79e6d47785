"""Chats to token ids, with the tokenizer's own chat template."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError, UnsupportedFeatureError
from mlflow_llm_plugins.openai_api.messages import Message
from mlflow_llm_plugins.openai_api.tools import Tool

_LEFT_OUT = "..."


def render_chat(
    tokenizer: Any,
    messages: Sequence[Message],
    chat_template: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    tools: Sequence[Tool] = (),
    reasoning_effort: str | None = None,
) -> list[int]:
    """Write a conversation as the model was trained to read it, up to where its answer begins.

    Control tokens such as "</s>" that stand in a message are encoded as ordinary text: a user cannot end a
    turn or open one of the system's. Safe to call from any thread.

    Args:
        tokenizer: Not changed.
        messages: From `parse_messages`.
        chat_template: Used instead of the tokenizer's.
        chat_template_kwargs: Variables of the template, for example `enable_thinking`.
        tools: What the template tells the model about, from `parse_tools`.
        reasoning_effort: For templates that have a variable of this name.

    Raises:
        UnsupportedFeatureError: The template has no place for tools or reasoning_effort.
        InvalidInputError: There is no template, the template refuses these messages, or a variable has the
            name of an argument of `apply_chat_template`.
    """
    template = _template(tokenizer, chat_template, tools)
    variables = dict(chat_template_kwargs or {})
    if reasoning_effort is not None:
        _refuse_unless_mentioned(template, "reasoning_effort")
        variables["reasoning_effort"] = reasoning_effort
    if tools:
        _refuse_unless_mentioned(template, "tools")
    parameters = inspect.signature(tokenizer.apply_chat_template).parameters
    if taken := sorted(variables.keys() & {*parameters, "messages"}):
        raise InvalidInputError(
            f"chat_template_kwargs cannot set {', '.join(taken)}: these are no template variables.",
            param="chat_template_kwargs",
        )
    try:
        ids = tokenizer.apply_chat_template(
            [_known_role(message, template) for message in messages],
            tools=list(tools) or None,
            chat_template=template,
            add_generation_prompt=True,
            sanitize_control_tokens=True,
            tokenize=True,
            return_dict=False,
            **variables,
        )
    except Exception as error:  # templates are programs: besides Jinja's errors they raise any of Python's
        raise InvalidInputError(
            f"The chat template refuses these messages: {_reason(error, template)}", param="messages"
        ) from error
    if not ids:
        raise InvalidInputError("The chat template made an empty prompt of these messages.")
    return list(ids)


def _template(tokenizer: Any, chat_template: str | None, tools: Sequence[Tool]) -> str:
    if chat_template is None and not getattr(tokenizer, "chat_template", None):
        raise InvalidInputError(
            "This model has no chat template, so it cannot read messages. Log it with chat_template='...', "
            "or send a prompt instead (task 'llm/v1/completions')."
        )
    try:
        return str(tokenizer.get_chat_template(chat_template, list(tools) or None))
    except ValueError as error:  # several named templates, none of them called default
        raise InvalidInputError(f"The chat template cannot be chosen: {error}") from error


def _refuse_unless_mentioned(template: str, name: str) -> None:
    """A template ignores a variable that it does not know."""
    if not re.search(rf"\b{name}\b", template):
        raise UnsupportedFeatureError(
            f"{name} is not supported by this model: its chat template does not mention {name}. "
            f"Leave {name} out, or log the model with a chat_template that does.",
            param=name,
        )


def _known_role(message: Message, template: str) -> Message:
    """OpenAI renamed system to developer; most templates know only the old name."""
    if message["role"] == "developer" and "developer" not in template:
        return {**message, "role": "system"}
    return message


def _reason(error: Exception, template: str) -> str:
    """Jinja's words and the template's own; others are left out, since they may be what was said."""
    from jinja2 import TemplateSyntaxError, UndefinedError

    if isinstance(error, TemplateSyntaxError | UndefinedError):  # names of the template in Jinja's words
        return str(error)
    own = set(re.findall(r"\w+", template))
    known = (word if own.issuperset(re.findall(r"\w+", word)) else _LEFT_OUT for word in str(error).split())
    words = [word for word, _ in itertools.groupby(known)]
    return " ".join(words) if set(words) - {_LEFT_OUT} else type(error).__name__
