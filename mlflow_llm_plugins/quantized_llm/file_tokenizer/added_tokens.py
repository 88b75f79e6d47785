"""Tokens that a folder declares beside its tokenizer.json, put into the vocabulary."""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken, Tokenizer

from mlflow_llm_plugins.quantized_llm.file_tokenizer.config import TokenizerConfig


def add_declared_tokens(backend: Tokenizer, config: TokenizerConfig) -> None:
    """Change the backend in place: all declared and special tokens are in it, in the order of transformers.

    Named tokens become special. Padding and truncation, which some tokenizer.json files switch on, are switched off:
    transformers does so at its first call.
    """
    backend.no_padding()
    backend.no_truncation()
    backend.encode_special_tokens = config.split_special_tokens
    named = [str(token) for token in config.named.values()]
    tokens = [_as_special(token, str(token) in named) for _, token in sorted(config.declared.items())]
    known = {token.content for token in [*backend.get_added_tokens_decoder().values(), *tokens]}
    missing = [token for token in [*config.named.values(), *config.extra] if str(token) not in known]
    unique = {str(token): token for token in reversed(missing)}  # the first of each name
    tokens += [_as_special(unique[content], content in named) for content in dict.fromkeys(map(str, missing))]
    backend.add_tokens(tokens)


def _as_special(token: Any, is_named: bool) -> AddedToken:
    if isinstance(token, str):
        return AddedToken(token, special=True)
    if is_named and not token.special:
        token.special = True
    added: AddedToken = token
    return added
