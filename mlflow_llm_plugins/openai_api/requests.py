"""Requests of OpenAI's API, read from JSON that was parsed already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from typing_extensions import Self

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.openai_api.fields import boolean, integer, mapping, wrong
from mlflow_llm_plugins.openai_api.logprobs import parse_chat_logprobs, parse_completion_logprobs
from mlflow_llm_plugins.openai_api.messages import Message, parse_messages
from mlflow_llm_plugins.openai_api.parameters import check_parameters
from mlflow_llm_plugins.openai_api.prompts import Prompt, parse_prompts
from mlflow_llm_plugins.openai_api.sampling import SAMPLING_FIELDS, parse_sampling
from mlflow_llm_plugins.openai_api.tools import Tool, parse_tools

MAX_CHOICES = 128  # OpenAI's own bound on n

OPTION_FIELDS = (*SAMPLING_FIELDS, "n", "stream", "stream_options")
CHAT_FIELDS = (
    *OPTION_FIELDS,
    "messages",
    "chat_template_kwargs",
    "logprobs",
    "top_logprobs",
    "tools",
    "tool_choice",
    "reasoning_effort",
)
COMPLETION_FIELDS = (*OPTION_FIELDS, "prompt", "logprobs", "echo")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestOptions:
    """What chats, completions and rows of text have in common."""

    sampling: Mapping[str, Any] = field(default_factory=dict)  # only what was given, named as engines name it
    n: int = 1  # answers for each prompt
    stream: bool = False
    include_usage: bool = False  # a stream ends with a chunk that has the usage

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Self:
        """Read the options.

        Args:
            raw: Parameters only, without messages or prompt.

        Raises:
            InvalidInputError: Names the field, what is allowed and the value.
            UnsupportedFeatureError: Names each parameter that cannot be honoured.
        """
        check_parameters(raw, OPTION_FIELDS)
        return cls(**_options(raw))


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatCompletionRequest(RequestOptions):
    """The body of `POST /v1/chat/completions`."""

    messages: tuple[Message, ...]
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    tools: tuple[Tool, ...] = ()  # those that the model is told about
    reasoning_effort: str | None = None

    @classmethod
    def parse(cls, raw: object) -> Self:
        """Read the request; raises as `RequestOptions.parse` does."""
        body = _body(raw, required="messages")
        check_parameters(body, CHAT_FIELDS)
        return cls(
            messages=parse_messages(body["messages"]),
            chat_template_kwargs=mapping("chat_template_kwargs", body.get("chat_template_kwargs") or {}),
            tools=parse_tools(body),
            reasoning_effort=_reasoning_effort(body.get("reasoning_effort")),
            **_options(body, parse_chat_logprobs(body)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRequest(RequestOptions):
    """The body of `POST /v1/completions`."""

    prompts: tuple[Prompt, ...]
    echo: bool = False  # answers begin with their prompt, and its tokens have log-probabilities as well
    score_only: bool = False  # nothing is generated: the answer is the prompt; only with echo

    @classmethod
    def parse(cls, raw: object) -> Self:
        """Read the request; raises as `RequestOptions.parse` does."""
        body = _body(raw, required="prompt")
        check_parameters(body, COMPLETION_FIELDS)
        options = _options(body, parse_completion_logprobs(body))
        echo = body.get("echo") is not None and boolean("echo", body["echo"])
        score_only = options["sampling"].get("max_new_tokens") == 0
        if score_only and not echo:
            raise InvalidInputError("max_tokens must be at least 1, or 0 with echo=true, got 0.")
        if score_only:
            del options["sampling"]["max_new_tokens"]
        return cls(prompts=parse_prompts(body["prompt"]), echo=echo, score_only=score_only, **options)


def _body(raw: object, required: str) -> Mapping[str, Any]:
    body = mapping("The request", raw)
    if body.get(required) is None:
        raise InvalidInputError(f"The request has no {required}; its fields are: {', '.join(sorted(body)) or 'none'}.")
    return body


def _options(body: Mapping[str, Any], top_logprobs: int | None = None) -> dict[str, Any]:
    stream_options = mapping("stream_options", body.get("stream_options") or {})
    sampling = parse_sampling(body)
    if top_logprobs is not None:
        sampling["top_logprobs"] = top_logprobs
    return {
        "sampling": sampling,
        "n": _choices(body.get("n")),
        "stream": body.get("stream") is not None and boolean("stream", body["stream"]),
        "include_usage": stream_options.get("include_usage") is not None
        and boolean("stream_options.include_usage", stream_options["include_usage"]),
    }


def _choices(value: object) -> int:
    n = 1 if value is None else integer("n", value)
    if not 1 <= n <= MAX_CHOICES:
        raise wrong("n", f"from 1 to {MAX_CHOICES}", value)
    return n


def _reasoning_effort(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise wrong("reasoning_effort", "a string", value)
    return value
