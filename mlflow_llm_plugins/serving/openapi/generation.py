"""The schemas of requests for text."""

from __future__ import annotations

from mlflow_llm_plugins.openai_api.logprobs import MOST_LOGPROBS
from mlflow_llm_plugins.openai_api.messages import ROLES
from mlflow_llm_plugins.serving.openapi.schema import (
    BOOLEAN,
    COUNT,
    OBJECT,
    SOME_TEXT,
    TEXT,
    Schema,
    any_of,
    array,
    closed,
    described,
    fields,
    integer,
    mapping,
    number,
    one_of,
    or_null,
    record,
    ref,
)
from mlflow_llm_plugins.serving.settings import ServingSettings

_SAMPLING = {
    "temperature": described("0 is greedy.", number(minimum=0, maximum=100)),
    "top_p": number(exclusiveMinimum=0, maximum=1),
    "min_p": number(minimum=0, maximum=1),
    "top_k": described("0 keeps all tokens.", COUNT),
    "seed": integer(minimum=-(2**63), maximum=2**63 - 1),
    "repetition_penalty": number(minimum=0.01, maximum=100),
    "frequency_penalty": number(minimum=-2, maximum=2),
    "presence_penalty": number(minimum=-2, maximum=2),
    "no_repeat_ngram_size": COUNT,
    "logit_bias": {**mapping(number(minimum=-100, maximum=100)), "propertyNames": {"pattern": "^[0-9]{1,19}$"}},
    "stop_token_ids": array(COUNT),
    "min_tokens": described("No end before so many.", COUNT),
    "min_new_tokens": described("The same as `min_tokens`.", COUNT),
    "ignore_eos": described("Go on behind the model's own end token.", BOOLEAN),
}
_FORMS = {
    "response_format": any_of(
        closed({"type": one_of("text", "json_object")}, ["type"]),
        closed(
            {
                "type": one_of("json_schema"),
                "json_schema": fields({"schema": any_of(OBJECT, TEXT), "name": TEXT, "strict": BOOLEAN}, ["schema"]),
            },
            ["type", "json_schema"],
        ),
    ),
    "json_schema": any_of(OBJECT, TEXT),
    "regex": TEXT,
    "choice": array(SOME_TEXT),
    "grammar": TEXT,
}
_STREAMING = {
    "stream": described("Answer with server-sent events, as the tokens are made.", BOOLEAN),
    "stream_options": fields({"include_usage": or_null(BOOLEAN)}),
}
_CHAT = {
    "chat_template_kwargs": described("Variables of the model's chat template.", OBJECT),
    "logprobs": described("Whether the answer has the log-probabilities of its tokens.", BOOLEAN),
    "top_logprobs": described(
        "So many best tokens at each place; needs `logprobs`.", integer(minimum=0, maximum=MOST_LOGPROBS)
    ),
    "tools": array(ref("Tool")),
    "tool_choice": one_of("auto", "none"),
    "parallel_tool_calls": described("False: an answer has one call at most.", BOOLEAN),
    "reasoning_effort": described("For models whose chat template reads it.", TEXT),
}
_COMPLETION = {
    "logprobs": described(
        "Log-probabilities of the tokens, and of so many best ones at each place.",
        any_of(integer(minimum=0, maximum=MOST_LOGPROBS), one_of(False)),
    ),
    "echo": described("Whether answers begin with their prompt.", BOOLEAN),
}
_CALL = fields({"function": fields({"name": TEXT, "arguments": {}}), "id": TEXT, "type": TEXT}, ["function"])


def request_schemas(settings: ServingSettings) -> dict[str, Schema]:
    """By the names that `ref` takes, with the limits of the server."""
    options = _options(settings)
    chat, completion = {**options, **_optional(_CHAT)}, {**options, **_optional(_COMPLETION)}
    messages = array(ref("Message"), least=1)
    completion["max_tokens"] = described("0, with `echo` only, generates nothing.", or_null(_new_tokens(settings, 0)))
    return {
        "ChatCompletionRequest": fields({"messages": messages, **chat}, ["messages"]),
        "CompletionRequest": fields({"prompt": _prompt(settings), **completion}, ["prompt"]),
        "Rows": _rows(),
        "Message": _message(),
        "Tool": _tool(),
    }


def _options(settings: ServingSettings) -> dict[str, Schema]:
    """What chats, completions and rows of text have in common."""
    limit = _new_tokens(settings, 1)
    stop = any_of(SOME_TEXT, array(SOME_TEXT, most=settings.max_stop))
    one_form = f"What the answer must look like; of {', '.join(_FORMS)} a request may have one."
    options = {
        **_SAMPLING,
        "max_tokens": limit,
        "max_completion_tokens": described("The same as `max_tokens`.", limit),
        "max_new_tokens": described("The same as `max_tokens`.", limit),
        "stop": described("The answer ends before the first of these.", stop),
        "stop_sequences": described("More of `stop`.", stop),
        "n": described("Answers to each prompt.", integer(minimum=1, maximum=settings.max_choices)),
        **{name: described(one_form, form) for name, form in _FORMS.items()},
        **_STREAMING,
    }
    return {"model": described("Not looked at: the server has one model.", {}), **_optional(options)}


def _optional(properties: dict[str, Schema]) -> dict[str, Schema]:
    return {name: or_null(schema) for name, schema in properties.items()}


def _new_tokens(settings: ServingSettings, least: int) -> Schema:
    limit = {} if settings.max_new_tokens is None else {"maximum": settings.max_new_tokens}
    return integer(minimum=least, **limit)


def _prompt(settings: ServingSettings) -> Schema:
    ids = array(COUNT, least=1)
    texts = array(any_of(TEXT, ids), least=1, most=settings.max_prompts)
    return described("Text or token ids, of one prompt or of several.", any_of(TEXT, ids, texts))


def _message() -> Schema:
    part = record(type=one_of("text"), text=TEXT)
    content = described("May be missing beside `tool_calls` only.", or_null(any_of(TEXT, array(part))))
    calls = or_null(array(_CALL))
    return fields(
        {"role": one_of(*ROLES), "content": content, "tool_calls": calls, "tool_call_id": or_null(TEXT)}, ["role"]
    )


def _tool() -> Schema:
    function = fields(
        {
            "name": SOME_TEXT,
            "description": or_null(TEXT),
            "parameters": described("A JSON schema.", or_null(OBJECT)),
            "strict": one_of(False, None),
        },
        ["name"],
    )
    return record(type=one_of("function"), function=function)


def _rows() -> Schema:
    payloads = {"inputs": {}, "instances": {}, "dataframe_split": OBJECT, "dataframe_records": array(OBJECT, least=1)}
    params = described("Those that the model's signature names; MLflow drops others.", or_null(OBJECT))
    one = {"oneOf": [{"required": [name]} for name in payloads]}
    text = "One of MLflow's payloads; each row is a prompt, and gets a text."
    return described(text, {**fields({**payloads, "params": params}), **one})
