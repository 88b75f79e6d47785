"""One message of a user in the judge's chat template, up to where its answer begins."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError

# What opens and closes a thought: a template that opens one gets it closed, as the verdict comes at once.
_THOUGHTS = {
    "<think>": "\n\n</think>\n\n",
    "<thinking>": "\n\n</thinking>\n\n",
    "<seed:think>": "\n\n</seed:think>\n\n",
    "[THINK]": "\n\n[/THINK]\n\n",
    "◁think▷": "\n\n◁/think▷\n\n",
    "<|START_THINKING|>": "\n\n<|END_THINKING|>\n\n",
    "<|channel>thought": "\n<channel|>",
}
_OPENS = re.compile(  # one that is not known: a mark with such a word at the very end, which closes nothing
    r"[<\[◁](?![^\n]*(?:/|end|close|off|none|no_))[^\s<>\[\]◁▷]{0,30}(?:think|thought|reason|analysis)[^\s<>\[\]◁▷]{0,30}[>\]▷]$"
    r"|[>\]▷](?:thinking|thoughts?|analysis|reasoning)(?:<\|message\|>)?$",
    re.IGNORECASE,
)
_LAST = 100  # characters of a prompt in which a thought may be opened
_SAID = "verdict"
_CHAT = [{"role": "user", "content": _SAID}, {"role": "assistant", "content": _SAID}]


class ChatWriter:
    """Renders with the tokenizer's own template; without one the text stands as it is."""

    def __init__(self, tokenizer: Any) -> None:
        """Take the tokenizer, which is not changed."""
        self._tokenizer = tokenizer
        self._template = _template_of(tokenizer)
        knows_thinking = self._template is not None and re.search(r"\benable_thinking\b", self._template)
        self._variables = {"enable_thinking": False} if knows_thinking else {}

    @cached_property
    def lead(self) -> str:
        """The blank before an answer: behind the colon of plain text, and where the template writes one."""
        if self._template is None:
            return " "
        prompt = self.write(_SAID)
        is_behind = self._chat.startswith(prompt)
        between = self._chat.removeprefix(prompt).partition(_SAID)[0] if is_behind else ""
        return between if between.isspace() else ""

    @cached_property
    def _chat(self) -> str:
        """A question and its answer; nothing where a template is for users' messages alone."""
        try:
            return self._render(_CHAT, add_generation_prompt=False)
        except InvalidInputError:
            return ""

    @property
    def start(self) -> list[int]:
        """The token that begins a text, which templates write themselves."""
        bos: Any = getattr(self._tokenizer, "bos_token_id", None)
        begins = self._template is None and bos is not None and self._tokenizer("")["input_ids"][:1] == [bos]
        return [bos] if begins else []

    def write(self, text: str) -> str:
        """The prompt.

        Raises:
            InvalidInputError: The template refuses a message of a user, or opens a thought of an unknown kind.
        """
        if self._template is None:
            return text
        return _thought_closed(self._render([{"role": "user", "content": text}], add_generation_prompt=True))

    def around_messages(self) -> str:
        """What the template writes around messages of any role, one after the other; nothing without a template."""
        if self._template is None:
            return ""
        rendered = [self._chat]
        for role in ("system", "user"):  # some templates know no system
            try:
                rendered.append(self._render([{"role": role, "content": _SAID}], add_generation_prompt=role == "user"))
            except InvalidInputError:
                continue
        return "\n".join(rendered)

    def end_of_turn(self) -> int | None:
        """The token by which the model ends an answer; None if it has none."""
        special = set(self._tokenizer.all_special_ids)
        end: int | None = getattr(self._tokenizer, "eos_token_id", None)
        if self._template is None:
            return end
        behind = self._chat.rpartition(_SAID)[2]
        written = self._tokenizer(behind, add_special_tokens=False, verbose=False)["input_ids"]
        return next((token_id for token_id in written if token_id in special), end)

    def _render(self, messages: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
        try:
            rendered: str = self._tokenizer.apply_chat_template(
                messages, add_generation_prompt=add_generation_prompt, tokenize=False, **self._variables
            )
        except Exception as error:  # templates are programs: besides Jinja's errors they raise any of Python's
            raise InvalidInputError(
                f"The judge's chat template refuses a message of a user ({type(error).__name__})."
            ) from error
        return rendered


def _template_of(tokenizer: Any) -> str | None:
    if not getattr(tokenizer, "chat_template", None):
        return None
    try:
        return str(tokenizer.get_chat_template())
    except ValueError as error:  # several named templates, none of them called default
        raise InvalidInputError(f"The judge's chat template cannot be chosen: {error}") from error


def _thought_closed(prompt: str) -> str:
    """End a thought that the template begins behind the message in spite of `enable_thinking=False`."""
    ended = prompt.rstrip()
    for opening, closing in _THOUGHTS.items():
        if ended.endswith(opening):
            return f"{ended}{closing}"
    if opens := _OPENS.search(ended[-_LAST:]):
        raise InvalidInputError(
            f"The judge's chat template opens a thought ({opens.group()!r}) before every answer, and how it is closed "
            "is not known here. Give the model a template that opens none, or take another judge."
        )
    return prompt
