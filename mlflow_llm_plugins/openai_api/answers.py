"""Finished answers in the shapes of OpenAI's API."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any, Protocol


class Generated(Protocol):
    """What an answer is made from, whoever generated it."""

    @property
    def text(self) -> str:
        """The answer without special tokens."""

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt, without padding."""

    @property
    def completion_tokens(self) -> int:
        """Generated tokens."""

    @property
    def finish_reason(self) -> str:
        """`stop` or `length`."""


def new_id(prefix: str) -> str:
    """An id that no other answer has, for example `chatcmpl-5e...`."""
    return f"{prefix}-{uuid.uuid4().hex}"


def chat_completion(model: str, choices: Sequence[Generated]) -> dict[str, Any]:
    """A `chat.completion`.

    Args:
        model: The name that the answer carries.
        choices: All answers to the one conversation.
    """
    return {
        "id": new_id("chatcmpl"),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {
                "index": index,
                "message": {"role": "assistant", "content": choice.text, "refusal": None},
                "logprobs": None,
                "finish_reason": choice.finish_reason,
            }
            for index, choice in enumerate(choices)
        ],
        "usage": usage([choices]),
    }


def text_completion(model: str, choices: Sequence[Sequence[Generated]]) -> dict[str, Any]:
    """A `text_completion`.

    Args:
        model: The name that the answer carries.
        choices: For each prompt all answers to it; they are numbered through, as OpenAI does.
    """
    return {
        "id": new_id("cmpl"),
        "object": "text_completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {"index": index, "text": choice.text, "logprobs": None, "finish_reason": choice.finish_reason}
            for index, choice in enumerate(choice for of_one_prompt in choices for choice in of_one_prompt)
        ],
        "usage": usage(choices),
    }


def usage(choices: Sequence[Sequence[Generated]]) -> dict[str, int]:
    """Token counts of a request; a prompt counts once however many answers it got."""
    prompt_tokens = sum(of_one_prompt[0].prompt_tokens for of_one_prompt in choices)
    completion_tokens = sum(choice.completion_tokens for of_one_prompt in choices for choice in of_one_prompt)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
