"""Two ways in which models mark their answers, written for `tests.models.byte_tokenizer`."""

from __future__ import annotations

from typing import Any

from tests.models import byte_tokenizer

PLAIN_MARKS = {  # as Qwen 3's: the marks are text, calls are JSON
    "defaults": {"role": "assistant"},
    "start_anchor": "<|assistant|>",
    "fields": {
        "reasoning_content": {"open": "<think>", "close": "</think>", "content": "text"},
        "tool_calls": {
            "open_pattern": r"\s*<tool_call>",
            "close": "</tool_call>",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close_pattern": r"\s*<\|end\|>", "content": "text"},
    },
}
CHANNEL, CHANNEL_END, CALL, CALL_END = (f"<|unused_{i}|>" for i in range(4))
SPECIAL_MARKS = {  # as Gemma 4's: the marks are special tokens, which the text of an answer does not have
    "start_anchor": "<|assistant|>",
    "fields": {
        "thinking": {"open": f"{CHANNEL}thought\n", "close": CHANNEL_END, "content": "text"},
        "tool_calls": {
            "open_pattern": r"<\|unused_2\|>call:(?P<name>\w+)",
            "close": CALL_END,
            "repeats": True,
            "content": "json",
            "content_args": {"unquoted_keys": True},
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
        },
        "content": {"close": ["<|end|>"], "content": "text"},
    },
}


def tokenizer_with(response_template: dict[str, Any] | None) -> Any:
    """A tokenizer whose model writes so."""
    tokenizer = byte_tokenizer()
    tokenizer.response_template = response_template
    return tokenizer


def ids_of(tokenizer: Any, text: str) -> list[int]:
    """Token ids of an answer; special tokens may be written in it."""
    ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    return ids
