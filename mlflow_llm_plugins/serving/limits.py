"""What a request may ask for at most; each limit is a setting, and the message says which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError, PromptTooLongError
from mlflow_llm_plugins.generation import GenerationRequest
from mlflow_llm_plugins.serving.settings import ServingSettings, variable


class TooManyTokensError(InvalidInputError):
    """The prompts of one request that are to be scored have more tokens together than allowed."""

    http_status = 413


def check_body(body: Any, settings: ServingSettings) -> None:
    """Refuse what would cost much before the request is even read; anything malformed is left to the reader.

    Raises:
        InvalidInputError: More prompts or choices than allowed.
    """
    if not isinstance(body, Mapping):
        return
    n, prompt = body.get("n"), body.get("prompt")
    n = n if isinstance(n, int) and n > 0 else 1
    _at_most("n", n, "choices", settings, "max_choices")
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        _at_most("prompt", len(prompt), "prompts", settings, "max_prompts")
        _at_most("prompt with n", len(prompt) * n, "answers", settings, "max_answers")


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


def check_scored(prompts: Sequence[Sequence[int]], settings: ServingSettings) -> None:
    """Refuse more to be scored than one request may hold the engine's scoring up with.

    Raises:
        TooManyTokensError: Names the limit.
    """
    limit = settings.max_scored_tokens
    if (tokens := sum(map(len, prompts))) > limit:
        raise TooManyTokensError(
            f"{tokens} tokens are to be scored; one request may have {limit} ({variable('max_scored_tokens')}). "
            "Send fewer prompts at once, or shorter ones."
        )


def admitted(requests: Sequence[GenerationRequest], settings: ServingSettings) -> list[GenerationRequest]:
    """The requests within the server's limits for prompts, stop strings, new tokens and time.

    Raises:
        InvalidInputError: One of them asks for more.
    """
    check_prompts([request.prompt_ids for request in requests], settings)
    return [_admitted(request, settings) for request in requests]


def _admitted(request: GenerationRequest, settings: ServingSettings) -> GenerationRequest:
    _at_most("stop", len(request.stop), "stop strings", settings, "max_stop")
    limit = settings.max_new_tokens
    if limit is not None and (request.max_new_tokens or 0) > limit:
        raise InvalidInputError(
            f"{request.max_new_tokens} new tokens are asked for; this server allows {limit} "
            f"({variable('max_new_tokens')})."
        )
    if limit is not None or settings.request_timeout_s is not None:
        return replace(request, new_tokens_limit=limit, timeout_s=settings.request_timeout_s)
    return request


def _at_most(field: str, asked: int, what: str, settings: ServingSettings, setting: str) -> None:
    allowed = getattr(settings, setting)
    if asked > allowed:
        raise InvalidInputError(
            f"{field} has {asked} {what}; this server allows at most {allowed} ({variable(setting)}).",
            param=field.partition(" ")[0],
        )
