"""What the files beside tokenizer.json say about special tokens, chats and decoding."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from mlflow_llm_plugins.quantized_llm.file_tokenizer.chat_templates import ChatTemplates, read_chat_templates

CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_MAP_FILE = "special_tokens_map.json"  # of transformers 4
ADDED_TOKENS_FILE = "added_tokens.json"  # of transformers 4

NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_EXTRA, _OLD_EXTRA = "extra_special_tokens", "additional_special_tokens"
_MODEL_SPECIFIC = "model_specific_special_tokens"
_NO_LIMIT = int(1e30)  # what transformers says where the files name no length


@dataclass(frozen=True, slots=True)
class TokenizerConfig:
    """Settings with the values that transformers 5.23 takes from the same files."""

    named: Mapping[str, Any]  # AddedToken or str: "bos_token" and its like, then those of this model alone
    extra: tuple[Any, ...]  # AddedToken or str: special ones without a name
    declared: Mapping[int, Any]  # AddedToken by id: what the vocabulary must hold
    chat_template: ChatTemplates
    chat_control_tokens: frozenset[str] | None  # besides special ones; None: found in the template
    response_template: Any
    model_max_length: int
    cleans_up_spaces: bool
    cleans_up_spaces_of_bpe: bool
    split_special_tokens: bool


def read_config(folder: Path, backend: Tokenizer) -> TokenizerConfig:
    """The settings of a folder; files that are not there say nothing.

    Args:
        folder: Where tokenizer.json is.
        backend: What it holds, before anything was added.
    """
    raw, own = _merged(folder)
    if backend.padding is not None:
        raw.setdefault("pad_token", backend.padding["pad_token"])
    extra = raw.get(_EXTRA) or ()
    named = {name: raw[name] for name in NAMED_TOKENS if raw.get(name) is not None}
    controls = raw.get("chat_control_tokens")
    length = raw.get("model_max_length", raw.get("max_len"))
    return TokenizerConfig(
        named={**named, **own},
        extra=tuple(extra),
        declared=_declared(folder, raw, backend, {str(token) for token in [*named.values(), *extra]}),
        chat_template=read_chat_templates(folder, raw.get("chat_template")),
        chat_control_tokens=None if controls is None else frozenset(controls),
        response_template=raw.get("response_template"),
        model_max_length=_NO_LIMIT if length is None else length,
        cleans_up_spaces=bool(raw.get("clean_up_tokenization_spaces", False)),
        cleans_up_spaces_of_bpe=bool(
            raw.get("clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", False)
        ),
        split_special_tokens=bool(raw.get("split_special_tokens", False)),
    )


def _merged(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings, and among them the special tokens that have names of this model alone."""
    raw = _renamed(_with_tokens(_read_json(folder / CONFIG_FILE)))
    strings = {name: value for name, value in _own_names(raw).items() if isinstance(value, str)}
    own = {**strings, **_taken_names(raw)} or raw.get(_MODEL_SPECIFIC, {})
    if "added_tokens_decoder" not in raw:  # else the map is not read: it says the same
        raw = _renamed({**raw, **_with_tokens(_read_json(folder / SPECIAL_TOKENS_MAP_FILE), special=True)})
        own = {**own, **_taken_names(raw)}
    return raw, {**_own_names(raw), **own}


def _renamed(raw: dict[str, Any]) -> dict[str, Any]:
    """Extra special tokens under the name that transformers 5 has for them."""
    if raw.get(_EXTRA) or _OLD_EXTRA not in raw:
        return raw
    return {**raw, _EXTRA: raw[_OLD_EXTRA]}


def _own_names(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in raw.items()
        if name.endswith("_token") and name not in NAMED_TOKENS and isinstance(value, (str, AddedToken))
    }


def _taken_names(raw: dict[str, Any]) -> dict[str, Any]:
    """Takes out extra special tokens that were given with names."""
    return raw.pop(_EXTRA) if isinstance(raw.get(_EXTRA), dict) else {}


def _declared(folder: Path, raw: Mapping[str, Any], backend: Tokenizer, special: set[str]) -> dict[int, Any]:
    if "added_tokens_decoder" in raw:
        return {int(token_id): token for token_id, token in raw["added_tokens_decoder"].items()}
    declared = {
        token_id: AddedToken(content, normalized=content not in special, special=content in special)
        for content, token_id in _read_json(folder / ADDED_TOKENS_FILE).items()
    }
    return {**declared, **backend.get_added_tokens_decoder()}


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    content = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise TypeError(f"{file.name} must be a JSON object, got {type(content).__name__}")
    return content


def _with_tokens(value: Any, **flags: bool) -> Any:
    """The same with an AddedToken wherever a token is written with its properties."""
    if isinstance(value, list):
        return [_with_tokens(item, **flags) for item in value]
    if not isinstance(value, dict):
        return value
    if "content" in value and "lstrip" in value:
        return AddedToken(**{name: part for name, part in value.items() if name != "__type"} | flags)
    return {name: _with_tokens(item, **flags) for name, item in value.items()}
