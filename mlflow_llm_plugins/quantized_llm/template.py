"""How a text becomes a prompt: the task an artifact serves, its prompt template, its request defaults."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from mlflow_llm_plugins.errors import InvalidInputError, UnsupportedFeatureError
from mlflow_llm_plugins.lookup import did_you_mean
from mlflow_llm_plugins.quantized_llm.checkpoint import GENERATION_CONFIG_FILE
from mlflow_llm_plugins.quantized_llm.record import Task

_logger = logging.getLogger(__name__)

CHAT: Task = "llm/v1/chat"
COMPLETIONS: Task = "llm/v1/completions"
PLACEHOLDER = "{prompt}"
SAMPLING_KEYS = ("temperature", "top_p", "top_k", "min_p")  # transformers refuses them without do_sample


def choose_task(task: str | None, chat_template: str | None) -> Task:
    """The task to record.

    Args:
        task: As given; None means chat where there is a chat template, else completions.
        chat_template: The tokenizer's, or the one given.

    Raises:
        InvalidInputError: An unknown task, or chat without a template.
    """
    if task is None:
        if chat_template is None:
            _logger.info("The tokenizer has no chat template: logged with task=%r.", COMPLETIONS)
        return CHAT if chat_template is not None else COMPLETIONS
    if task == CHAT and chat_template is None:
        raise InvalidInputError(
            f"task={task!r} needs a chat template, and the tokenizer has none. Give one with chat_template=, or "
            f"use task={COMPLETIONS!r}."
        )
    if task == CHAT:
        return CHAT
    if task == COMPLETIONS:
        return COMPLETIONS
    raise InvalidInputError(
        f"Unknown task {task!r}.{did_you_mean(task, get_args(Task))} Allowed: {', '.join(get_args(Task))}."
    )


def check_prompt_template(template: str | None) -> None:
    """Refuse a prompt template that does not contain `{prompt}` exactly once."""
    if template is not None and template.count(PLACEHOLDER) != 1:
        raise InvalidInputError(f"prompt_template must contain {PLACEHOLDER!r} exactly once, got {template!r}.")


def request_defaults(generation_config: Any) -> dict[str, Any] | None:
    """The request defaults that were given, as plain values of transformers' GenerationConfig.

    Args:
        generation_config: A GenerationConfig, a dictionary of its keys, or None.

    Raises:
        InvalidInputError: An unknown key, or a value that transformers refuses.
    """
    if generation_config is None:
        return None
    from transformers import GenerationConfig

    if isinstance(generation_config, GenerationConfig):
        given = generation_config.to_diff_dict()
        given.pop("transformers_version", None)
        return _checked(given)
    if not isinstance(generation_config, Mapping):
        raise InvalidInputError(
            f"generation_config must be a GenerationConfig or a dictionary, got {generation_config!r}."
        )
    known = set(GenerationConfig().to_dict())
    for key in generation_config:
        if key not in known:
            raise InvalidInputError(
                f"generation_config: unknown key {key!r}.{did_you_mean(key, known)} "
                "Allowed are the keys of transformers' GenerationConfig."
            )
    return _checked(_with_sampling(dict(generation_config)))


def write_request_defaults(folder: Path, defaults: Mapping[str, Any] | None) -> None:
    """Put the defaults over the generation_config.json of a folder, if it has one."""
    if not defaults:
        return
    file = folder / GENERATION_CONFIG_FILE
    own = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if defaults.get("do_sample") is False:
        own = {key: value for key, value in own.items() if key not in SAMPLING_KEYS}
    file.write_text(json.dumps({**own, **defaults}, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _checked(defaults: dict[str, Any]) -> dict[str, Any]:
    from transformers import GenerationConfig

    from mlflow_llm_plugins.generation import GenerationRequest
    from mlflow_llm_plugins.openai_api import check_generation_config, sampling_defaults

    check_generation_config(defaults)
    try:
        GenerationConfig(**defaults).validate(strict=True)
        GenerationRequest(prompt_ids=(0,), **sampling_defaults(defaults))
    except ValueError as error:
        raise InvalidInputError(f"generation_config={defaults!r}: {error}") from error
    return defaults


def _with_sampling(given: dict[str, Any]) -> dict[str, Any]:
    """Requests say temperature=0 for greedy; transformers says do_sample=False and refuses a temperature beside it."""
    if given.get("max_length") is not None:
        raise UnsupportedFeatureError(
            f"generation_config: max_length={given['max_length']!r} counts the prompt as well and is not supported by "
            "this engine; use max_new_tokens."
        )
    if given.get("temperature") == 0:
        if given.get("do_sample"):
            raise InvalidInputError(
                "generation_config: temperature=0 is greedy and do_sample=True draws. Give only one of them."
            )
        del given["temperature"]
        return {"do_sample": False, **given}
    if any(given.get(key) is not None for key in SAMPLING_KEYS):
        return {"do_sample": True, **given}
    return given
