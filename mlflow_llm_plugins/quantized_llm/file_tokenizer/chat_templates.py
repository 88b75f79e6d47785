"""The chat templates of a folder: one, or several with names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError

TEMPLATE_FILE = "chat_template.jinja"
TEMPLATE_FOLDER = "additional_chat_templates"
DEFAULT, TOOL_USE = "default", "tool_use"

ChatTemplates = str | dict[str, str] | None


def read_chat_templates(folder: Path, configured: Any) -> ChatTemplates:
    """Templates in files of their own stand in for all that tokenizer_config.json has.

    Args:
        folder: Where the files are.
        configured: `chat_template` of tokenizer_config.json: a template, or a list of `name` and `template`.
    """
    templates = {file.stem: _read(file) for file in sorted((folder / TEMPLATE_FOLDER).glob("*.jinja"))}
    if (folder / TEMPLATE_FILE).is_file():
        templates = {DEFAULT: _read(folder / TEMPLATE_FILE), **templates}
    if set(templates) == {DEFAULT}:
        return templates[DEFAULT]
    if templates:
        return templates
    if isinstance(configured, list):
        return {entry["name"]: entry["template"] for entry in configured}
    found: ChatTemplates = configured
    return found


def chosen_template(templates: ChatTemplates, chat_template: str | None, has_tools: bool) -> str:
    """The template to render with.

    Args:
        templates: Of the tokenizer.
        chat_template: Used instead; may be the name of one of several.
        has_tools: Prefers the template that is made for tools, if there is one.

    Raises:
        InvalidInputError: There is no template, or there are several, none of them called default.
    """
    named: Mapping[str, str] = templates if isinstance(templates, dict) else {}
    if chat_template is not None:
        return named.get(chat_template, chat_template)
    if isinstance(templates, str):
        return templates
    if has_tools and TOOL_USE in named:
        return named[TOOL_USE]
    if DEFAULT in named:
        return named[DEFAULT]
    if named:
        raise InvalidInputError(
            f"The tokenizer has several chat templates, none of them called {DEFAULT!r}. Name one of them with "
            f"chat_template: {', '.join(sorted(named))}."
        )
    raise InvalidInputError("The tokenizer has no chat template. Give one with chat_template='...'.")


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8")
