"""The tokenizer itself: texts, and chats by their template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

from mlflow_llm_plugins.errors import InvalidInputError, UnsupportedFeatureError
from mlflow_llm_plugins.quantized_llm.file_tokenizer.chat_templates import ChatTemplates, chosen_template
from mlflow_llm_plugins.quantized_llm.file_tokenizer.config import TokenizerConfig
from mlflow_llm_plugins.quantized_llm.file_tokenizer.control_tokens import ControlTokens
from mlflow_llm_plugins.quantized_llm.file_tokenizer.encoded import Encoded
from mlflow_llm_plugins.quantized_llm.file_tokenizer.environment import compiled
from mlflow_llm_plugins.quantized_llm.file_tokenizer.template_data import plain, plain_messages
from mlflow_llm_plugins.quantized_llm.file_tokenizer.text_tokenizer import TextTokenizer


class FileTokenizer(TextTokenizer):
    """What this package uses of transformers' fast tokenizers, with the same names and results.

    Safe to use from many threads; nothing changes it once it is made.
    """

    def __init__(self, backend: Tokenizer, config: TokenizerConfig) -> None:
        """Take the parts; `load_file_tokenizer` reads them.

        Args:
            backend: With all added tokens, and without padding and truncation.
            config: Of the same folder.
        """
        super().__init__(backend, config)
        self.chat_template: ChatTemplates = config.chat_template
        self._controls = ControlTokens(backend, config.chat_control_tokens, self._encode)

    def get_chat_template(self, chat_template: str | None = None, tools: Sequence[Any] | None = None) -> str:
        """The template that a chat is rendered with.

        Args:
            chat_template: A template, or the name of one of several.
            tools: Where there are any, the template that is called "tool_use" is preferred.

        Raises:
            InvalidInputError: There is no template, or none of several is the default.
        """
        return chosen_template(self.chat_template, chat_template, has_tools=tools is not None)

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        documents: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        tokenize: bool = True,
        sanitize_control_tokens: bool = False,
        padding: bool | str = False,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        return_dict: bool = True,
        return_assistant_tokens_mask: bool = False,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """A chat as the model was trained to read it. The arguments have the names that transformers gives them.

        Args:
            conversation: The messages, at least one.
            tools: JSON schemas of functions that the template tells the model about.
            documents: For templates that have a place for them.
            chat_template: Used instead of the tokenizer's own; a template, or the name of one of several.
            add_generation_prompt: Whether the beginning of an answer is written behind the messages.
            continue_final_message: Not offered.
            tokenize: Whether token ids are wanted; else it is the text.
            sanitize_control_tokens: Whether control tokens in messages, tools, documents and variables are encoded as
                ordinary text, so that only those of the template count. Those that the template itself puts together
                from pieces count as well.
            padding: Not offered, nor are the three that follow.
            truncation: Not offered.
            max_length: Not offered.
            return_tensors: Not offered.
            return_dict: Whether ids come as `Encoded`; else as a list.
            return_assistant_tokens_mask: Not offered.
            tokenizer_kwargs: Not offered.
            **kwargs: Variables of the template; they go before special tokens of the same name.

        Returns:
            `Encoded` or `list[int]`; `str` where no ids are wanted.

        Raises:
            InvalidInputError: There is no template or no message, or a message, tool or document has another type.
            UnsupportedFeatureError: An argument that is not offered was given.
            Exception: Templates are programs and raise what they like.
        """
        _refuse(
            continue_final_message=continue_final_message,
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            return_tensors=return_tensors,
            return_assistant_tokens_mask=return_assistant_tokens_mask,
            tokenizer_kwargs=tokenizer_kwargs,
        )
        if sanitize_control_tokens and not tokenize:
            raise InvalidInputError("sanitize_control_tokens=True needs tokenize=True: only ids can be sanitized.")
        template = self.get_chat_template(chat_template, tools)
        given = (
            plain_messages(conversation),
            _schemas("tools", tools),
            _schemas("documents", documents),
            plain(kwargs),
        )
        if sanitize_control_tokens:
            given = self._controls.mark(given, template)
        text = self._rendered(template, add_generation_prompt, *given)
        if not tokenize:
            return text
        ids = self._controls.encode(text) if sanitize_control_tokens else self._encode(text)
        return Encoded({"input_ids": ids}) if return_dict else ids

    def _rendered(
        self, template: str, add_generation_prompt: bool, messages: Any, tools: Any, documents: Any, variables: Any
    ) -> str:
        return compiled(template).render(
            messages=messages,
            tools=tools,
            documents=documents,
            add_generation_prompt=add_generation_prompt,
            **{**self._special, **variables},
        )

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self(text, add_special_tokens=False).input_ids
        return ids


def _schemas(name: str, values: Sequence[Any] | None) -> Any:
    """Tools or documents, of JSON's types."""
    for value in values or ():
        if not isinstance(value, Mapping):
            raise InvalidInputError(f"{name} must be dictionaries, got {type(value).__name__}.")
    return plain(values)


def _refuse(**given: Any) -> None:
    """Arguments that other tokenizers have, where they are given a meaning."""
    for name, value in given.items():
        if value:
            raise UnsupportedFeatureError(
                f"{name}={value!r} is not supported by a tokenizer that was read from its files: leave {name} out."
            )
