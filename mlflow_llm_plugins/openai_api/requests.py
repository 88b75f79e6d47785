"""Requests of OpenAI's API, read from JSON that was parsed already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from typing_extensions import Self

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.openai_api.fields import boolean, integer, mapping, shown, wrong
from mlflow_llm_plugins.openai_api.logprobs import parse_chat_logprobs, parse_completion_logprobs
from mlflow_llm_plugins.openai_api.messages import Message, parse_messages
from mlflow_llm_plugins.openai_api.parameters import Neutral, check_parameters
from mlflow_llm_plugins.openai_api.prompts import Prompt, parse_prompts
from mlflow_llm_plugins.openai_api.sampling import SAMPLING_FIELDS, check_limit, parse_sampling
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
    "parallel_tool_calls",
    "reasoning_effort",
)
COMPLETION_FIELDS = (*OPTION_FIELDS, "prompt", "logprobs", "echo")

_CHAT_OWN: dict[str, Neutral] = {"add_special_tokens": (False,)}  # the template writes them
_COMPLETION_OWN: dict[str, Neutral] = {"add_special_tokens": (True,)}
_STREAM_OWN: dict[str, Neutral] = {"continuous_usage_stats": (False,)}
_NAMED = 10  # fields in a message


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
        options = _options(raw)
        check_limit(raw, options["sampling"])
        return cls(**options)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatCompletionRequest(RequestOptions):
    """The body of `POST /v1/chat/completions`."""

    messages: tuple[Message, ...]
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    tools: tuple[Tool, ...] = ()  # those that the model is told about
    parallel_tool_calls: bool = True  # else an answer has one call at most
    reasoning_effort: str | None = None

    @classmethod
    def parse(cls, raw: object) -> Self:
        """Read the request; raises as `RequestOptions.parse` does."""
        body = _body(raw, required="messages")
        check_parameters(body, CHAT_FIELDS, _CHAT_OWN)
        options = _options(body, parse_chat_logprobs(body))
        check_limit(body, options["sampling"])
        return cls(
            messages=parse_messages(body["messages"]),
            chat_template_kwargs=mapping("chat_template_kwargs", body.get("chat_template_kwargs") or {}),
            tools=parse_tools(body),
            parallel_tool_calls=_flag(body, "parallel_tool_calls", default=True),
            reasoning_effort=_reasoning_effort(body.get("reasoning_effort")),
            **options,
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
        check_parameters(body, COMPLETION_FIELDS, _COMPLETION_OWN)
        options = _options(body, parse_completion_logprobs(body))
        echo = _flag(body, "echo")
        score_only = options["sampling"].get("max_new_tokens") == 0
        if score_only and not echo:
            raise InvalidInputError("max_tokens must be at least 1, or 0 with echo=true, got 0.", param="max_tokens")
        if score_only:
            del options["sampling"]["max_new_tokens"]
        return cls(prompts=parse_prompts(body["prompt"]), echo=echo, score_only=score_only, **options)


def _body(raw: object, required: str) -> Mapping[str, Any]:
    body = mapping("The request", raw)
    if required in body and body[required] is None:
        raise InvalidInputError(f"{required} must not be null.", param=required)
    if required not in body:
        fields = [shown(name).strip("'") for name in sorted(body)[:_NAMED]]
        more = ["..."] if len(body) > _NAMED else []
        raise InvalidInputError(
            f"The request has no {required}; its fields are: {', '.join([*fields, *more]) or 'none'}.", param=required
        )
    return body


def _flag(body: Mapping[str, Any], name: str, default: bool = False) -> bool:
    return default if body.get(name) is None else boolean(name, body[name])


def _options(body: Mapping[str, Any], top_logprobs: int | None = None) -> dict[str, Any]:
    stream_options = mapping("stream_options", body.get("stream_options") or {})
    check_parameters(stream_options, ("include_usage", "include_obfuscation"), _STREAM_OWN)
    sampling = parse_sampling(body)
    if top_logprobs is not None:
        sampling["top_logprobs"] = top_logprobs
    return {
        "sampling": sampling,
        "n": _choices(body.get("n")),
        "stream": _flag(body, "stream"),
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
