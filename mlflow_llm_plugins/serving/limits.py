"""What a request may ask for at most; each limit is a setting, and the message says which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError, PromptTooLongError
from mlflow_llm_plugins.generation import GenerationRequest
from mlflow_llm_plugins.serving.settings import ServingSettings, variable


def check_body(body: Any, settings: ServingSettings) -> None:
    """Refuse what would cost much before the request is even read; anything malformed is left to the reader.

    Raises:
        InvalidInputError: More prompts, choices or stop strings than allowed.
    """
    if not isinstance(body, Mapping):
        return
    stop = body.get("stop")
    _at_most("stop", len(stop) if isinstance(stop, list) else 0, "stop strings", settings, "max_stop")
    n = body.get("n")
    _at_most("n", n if isinstance(n, int) else 0, "choices", settings, "max_choices")
    prompt = body.get("prompt")
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        _at_most("prompt", len(prompt), "prompts", settings, "max_prompts")


def check_prompts(prompts: Sequence[Sequence[int]], settings: ServingSettings) -> None:
    """Refuse prompts that are longer than the server allows, whatever the model could read.

    Raises:
        PromptTooLongError: Names the length and the limit.
    """
    limit = settings.max_prompt_tokens
    longest = max(map(len, prompts), default=0)
    if limit is not None and longest > limit:
        raise PromptTooLongError(
            f"The prompt has {longest} tokens; this server allows {limit} ({variable('max_prompt_tokens')})."
        )


def limited(request: GenerationRequest, settings: ServingSettings) -> GenerationRequest:
    """The request within the server's limits for new tokens and time.

    Raises:
        InvalidInputError: It asks for more new tokens.
    """
    limit = settings.max_new_tokens
    if limit is not None and (request.max_new_tokens or 0) > limit:
        raise InvalidInputError(
            f"{request.max_new_tokens} new tokens are asked for; this server allows {limit} "
            f"({variable('max_new_tokens')})."
        )
    return request if settings.request_timeout_s is None else replace(request, timeout_s=settings.request_timeout_s)


def _at_most(field: str, asked: int, what: str, settings: ServingSettings, setting: str) -> None:
    allowed = getattr(settings, setting)
    if asked > allowed:
        raise InvalidInputError(
            f"{field} has {asked} {what}; this server allows at most {allowed} ({variable(setting)})."
        )
