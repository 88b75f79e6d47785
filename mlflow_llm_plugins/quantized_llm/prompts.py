"""Rows, chats and raw prompts to token ids, by the task and templates of an artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from typing_extensions import Self

from mlflow_llm_plugins import openai_api
from mlflow_llm_plugins.errors import PromptTooLongError
from mlflow_llm_plugins.quantized_llm.inputs import Row
from mlflow_llm_plugins.quantized_llm.record import Task
from mlflow_llm_plugins.quantized_llm.template import CHAT, PLACEHOLDER


@dataclass(frozen=True, slots=True)
class PromptEncoder:
    """What the artifact makes of the texts it gets; safe to use from many threads."""

    tokenizer: Any
    task: Task  # what a plain string means
    prompt_template: str | None = None  # with "{prompt}" where the text goes
    chat_template: str | None = None  # used instead of the tokenizer's
    max_characters: int | None = None  # of a prompt; a longer one has too many tokens for sure

    @classmethod
    def for_context(
        cls, tokenizer: Any, task: Task, prompt_template: str | None, chat_template: str | None, max_tokens: int
    ) -> Self:
        """For prompts of at most `max_tokens`; a text far beyond is refused before it is tokenised."""
        longest = max(map(len, tokenizer.get_vocab()), default=1)
        # twice, for what a tokenizer may drop
        return cls(tokenizer, task, prompt_template, chat_template, 2 * longest * max_tokens)

    def row(self, row: Row) -> list[int]:
        """A conversation; a string is a user's message where the task is chat, else a raw prompt."""
        if not isinstance(row, str):
            return self.chat(openai_api.parse_messages(row))
        if self.task == CHAT:
            return self.chat([{"role": "user", "content": self._in_template(row)}])
        return self.raw(row)

    def chat(
        self, messages: Sequence[openai_api.Message], template_kwargs: Mapping[str, Any] | None = None
    ) -> list[int]:
        """A conversation as the chat template writes it."""
        self._check_length(messages)
        return openai_api.render_chat(self.tokenizer, messages, self.chat_template, template_kwargs)

    def of_request(self, request: openai_api.ChatCompletionRequest) -> list[int]:
        """A conversation with the tools and the effort of its request."""
        self._check_length(request.messages)
        return openai_api.render_chat(
            self.tokenizer,
            request.messages,
            self.chat_template,
            request.chat_template_kwargs,
            request.tools,
            request.reasoning_effort,
        )

    def raw(self, prompt: openai_api.Prompt) -> list[int]:
        """Text or ids without a chat template; the prompt template is for texts of the artifact's own task."""
        if isinstance(prompt, str):
            self._check_length([{"content": prompt}])
            prompt = prompt if self.task == CHAT else self._in_template(prompt)
        return openai_api.encode_prompt(self.tokenizer, prompt)

    def _check_length(self, messages: Sequence[openai_api.Message]) -> None:
        characters = sum(len(message.get("content") or "") for message in messages)
        if self.max_characters is not None and characters > self.max_characters:
            raise PromptTooLongError(
                f"The prompt has {characters} characters, more than fit into the context of the engine. Shorten it."
            )

    def _in_template(self, text: str) -> str:
        return self.prompt_template.replace(PLACEHOLDER, text) if self.prompt_template else text
