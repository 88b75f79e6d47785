"""The schemas of answers and errors."""

from __future__ import annotations

from mlflow_llm_plugins.serving.openapi.schema import (
    COUNT,
    OBJECT,
    TEXT,
    Schema,
    array,
    fields,
    one_of,
    or_null,
    record,
    ref,
)

_REASONS = ("stop", "length")
_USAGE = {
    **record(prompt_tokens=COUNT, completion_tokens=COUNT, total_tokens=COUNT),
    "description": "The tokens of a prompt count once, however many answers it got.",
}
_ERROR = record(message=TEXT, type=TEXT, param=or_null(TEXT), code=or_null(TEXT))


def answer_schemas() -> dict[str, Schema]:
    """By the names that `ref` takes."""
    model = record(id=TEXT, object=one_of("model"), created=COUNT, owned_by=TEXT, max_model_len=COUNT)
    return {
        "ChatCompletion": _completion("chat.completion", _chat_choice()),
        "TextCompletion": _completion("text_completion", _choice(*_REASONS, text=TEXT)),
        "Predictions": record(predictions={}),
        "Usage": _USAGE,
        "Model": model,
        "Models": record(object=one_of("list"), data=array(ref("Model"))),
        "Status": record(status=TEXT),
        "Error": record(error=_ERROR),
        "InvocationsError": record(error_code=TEXT, message=TEXT, error=_ERROR),
    }


def _completion(kind: str, choice: Schema) -> Schema:
    return record(
        id=TEXT, object=one_of(kind), created=COUNT, model=TEXT, choices=array(choice, 1), usage=ref("Usage")
    )


def _choice(*reasons: str, **properties: Schema) -> Schema:
    return record(index=COUNT, **properties, logprobs=or_null(OBJECT), finish_reason=one_of(*reasons))


def _chat_choice() -> Schema:
    message = fields(
        {
            "role": one_of("assistant"),
            "content": or_null(TEXT),
            "reasoning_content": TEXT,
            "tool_calls": array(_call()),
            "refusal": {"type": "null"},
        },
        ["role", "content"],
    )
    return _choice(*_REASONS, "tool_calls", message=message)


def _call() -> Schema:
    return record(id=TEXT, type=one_of("function"), function=record(name=TEXT, arguments=TEXT))
