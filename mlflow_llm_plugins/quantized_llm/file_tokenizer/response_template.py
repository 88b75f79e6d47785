"""Answers told apart into reasoning, content and calls, by the parser of transformers where it is installed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

from mlflow_llm_plugins.quantized_llm.file_tokenizer.config import TokenizerConfig
from mlflow_llm_plugins.quantized_llm.file_tokenizer.tokenizer import FileTokenizer

_logger = logging.getLogger(__name__)


class ParsingFileTokenizer(FileTokenizer):
    """A tokenizer that says how its model writes, with the means to read that."""

    def __init__(self, backend: Tokenizer, config: TokenizerConfig, parser_class: Any) -> None:
        """Take the parts of a `FileTokenizer`, and transformers' `ResponseParser`."""
        super().__init__(backend, config)
        self.response_template = config.response_template
        self._parser_class = parser_class

    def get_response_parser(
        self, *, prefix: str | Sequence[int], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> Any:
        """A new `transformers.utils.chat_parsing.ResponseParser` for one answer; belongs to one thread.

        Args:
            prefix: The prompt, as text or token ids: a part of the answer may begin in it.
            tools: By their schemas the arguments of calls get their types.
        """
        text = prefix if isinstance(prefix, str) else self.decode(prefix)
        return self._parser_class(self.response_template, prefix=text, tools=tools)


def response_parser_class(name: str) -> Any:
    """Transformers' `ResponseParser`, imported without torch; None, with a warning, where it is not installed.

    Args:
        name: What the warning calls the tokenizer.
    """
    try:
        from transformers.utils.chat_parsing import ResponseParser
    except ImportError:
        _logger.warning(
            "Tool calls and reasoning in the answers of %s come as plain text: its response template is read by "
            "transformers, which is not installed. To have them told apart: pip install transformers",
            name,
        )
        return None
    return ResponseParser
