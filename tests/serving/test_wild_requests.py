"""Bodies that nobody would write: the server never fails on one, and no error repeats what a prompt says."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlflow_llm_plugins.openai_api.parameters import OF_SOME_REQUESTS, UNSUPPORTED
from mlflow_llm_plugins.openai_api.requests import OPTION_FIELDS

SECRET = "my voice is my passport"
LIMITS = {"MAX_NEW_TOKENS": "4", "MAX_CHOICES": "4", "MAX_PROMPTS": "8"}

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}, "s": {"pattern": "a{2}"}}}
FUNCTION = {"type": "function", "function": {"name": "look", "parameters": SCHEMA}}
MESSAGES = [
    {"role": "system", "content": SECRET},
    {"role": "user", "content": [{"type": "text", "text": SECRET}]},
    {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "look", "arguments": "{}"}}]},
    {"role": "tool", "content": SECRET, "tool_call_id": "1"},
]
OPTIONS = {
    "max_tokens": 2,
    "temperature": 0.9,
    "top_k": 5,
    "min_p": 0.1,
    "seed": 3,
    "n": 2,
    "stop": ["a", "b"],
    "logit_bias": {"7": 1.5},
    "stop_token_ids": [4],
    "repetition_penalty": 1.1,
    "frequency_penalty": 0.5,
    "min_tokens": 1,
    "response_format": {"type": "json_schema", "json_schema": {"name": "it", "schema": SCHEMA}},
    "json_schema": SCHEMA,
    "regex": "[ab]{3}",
    "choice": ["yes", "no"],
    "grammar": 'start: "a" | "b"',
    "stream": True,
    "stream_options": {"include_usage": True},
    "chat_template_kwargs": {"enable_thinking": False},
    "logprobs": True,
    "top_logprobs": 2,
    "echo": True,
    "tools": [FUNCTION],
}
SYSTEMONE = {
    "noul": {"type": "noul", "instructions": SECRET, "criteria": {"true": SECRET}},
    "choice": {"type": "choice", "criteria": {"a": SECRET, "b": None}},
    "score": {"type": "score", "instructions": {"ask": SECRET}, "criteria": [SECRET, {"level": SECRET}]},
}
DECISIONS = [
    {"type": "predicate", "name": "p", "instructions": SECRET},
    {"type": "choice", "instructions": SECRET, "choices": [{"value": "a", "description": SECRET}, {"value": True}]},
    {"type": "score", "instructions": [{"type": "input_text", "text": SECRET}], "levels": [{"label": SECRET}] * 2},
]
BODIES = {
    "/v1/chat/completions": [{"messages": MESSAGES[:2]}, {"messages": MESSAGES}],
    "/v1/completions": [{"prompt": SECRET}, {"prompt": [SECRET, SECRET]}, {"prompt": [[4, 5], [6]]}],
    "/v1/systemone": [{"state": {"said": SECRET}, "questions": SYSTEMONE}],
    "/v1/decisions": [{"input": SECRET, "questions": DECISIONS}, {"input": MESSAGES[:1], "questions": DECISIONS}],
    "/invocations": [
        {"inputs": [SECRET, SECRET], "params": OPTIONS},
        {"inputs": [{"prompt": SECRET}]},
        {"instances": [{"messages": MESSAGES[:2]}]},
        {"dataframe_split": {"columns": ["prompt", "other"], "data": [[SECRET, 1]], "index": [0]}},
        {"dataframe_records": [{"messages": MESSAGES[:2]}, {"messages": MESSAGES[:1]}]},
        {"messages": MESSAGES[:2]},
        {"prompt": SECRET},
    ],
}

MANY = {"type": "object", "properties": {f"property_{i}": {"type": "string"} for i in range(500)}}
AWKWARD = {
    "a penalty that is no number in float32": ("/v1/completions", {"prompt": SECRET, "repetition_penalty": 5e-324}),
    "a regex that grows too large": ("/v1/completions", {"prompt": SECRET, "regex": "(a{999}){999}"}),
    "a schema that grows too large": ("/v1/completions", {"prompt": SECRET, "json_schema": MANY}),
    "a list within a list parameter": ("/invocations", {"inputs": [SECRET], "params": {"choice": [["a"], "b"]}}),
    "a column that has no name": (
        "/invocations",
        {"dataframe_split": {"columns": [["a"], "b"], "data": [[SECRET, 1]]}},
    ),
}
UNREADABLE = {
    "no content type": (None, json.dumps({"inputs": [SECRET]}).encode()),
    "CSV without a header": ("text/csv", b""),
    "CSV with rows of two lengths": ("text/csv", f"prompt\n{SECRET}\na,{SECRET},c\n".encode()),
    "CSV that is not UTF-8": ("text/csv", f"prompt\n{SECRET} ".encode() + b"\xff"),
    "no Parquet": ("application/vnd.apache.parquet", SECRET.encode()),
}

numbers = st.integers(-3, 300) | st.floats(0, 2, width=16) | st.sampled_from([2**63, -(2**63) - 1, 10**400, 1.7e308])
texts = st.text(max_size=5) | st.sampled_from(["(a|", "[^a]{1,99}", "start: start", "\x00", "<|end|>", "é" * 90, "#/"])
scalars = st.none() | st.booleans() | numbers | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=5
)
fields = st.sampled_from([*OPTION_FIELDS, *OF_SOME_REQUESTS, *UNSUPPORTED, "model", "params"])


@st.composite
def nearly_right(draw, bodies):
    """A body with some options, one or two places of which hold, or have around them, what does not belong there."""
    names = draw(st.lists(st.sampled_from(sorted(OPTIONS)), max_size=3))
    body = copy.deepcopy({**draw(st.sampled_from(bodies)), **{name: OPTIONS[name] for name in names}})
    if draw(st.booleans()):
        body[draw(fields)] = draw(values)
    for _ in range(draw(st.integers(0, 2))):
        holder, key = draw(st.sampled_from(list(places(body))))
        wrapped = st.sampled_from([[holder[key]], {"text": holder[key]}, [[holder[key]], 1]])
        holder[key] = draw(values | wrapped)
    return body


def places(value):
    """Every place inside a JSON value, as what holds it and its key there."""
    for key in value if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from places(value[key])


def assert_answered(response):
    """Neither the status nor an event of a stream tells of a failure, and no error has the prompt."""
    assert response.status_code < 500, response.text
    told = response.text
    if response.status_code == 200:
        told = "\n".join(line for line in told.splitlines() if line.startswith('data: {"error"'))
    assert "server_error" not in told
    assert SECRET not in told


@pytest.fixture(scope="module")
def limited(serve):
    """A client of a server that makes short answers."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in LIMITS.items():
            environment.setenv(f"MLFLOW_LLM_{name}", value)
        with serve() as running, running.client() as client:
            yield client


@pytest.mark.parametrize("path", BODIES)
@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_no_body_makes_the_server_fail_and_no_error_repeats_the_prompt(limited, path, data):
    content = json.dumps(data.draw(nearly_right(BODIES[path]), label="body"))
    assert_answered(limited.post(path, content=content, headers={"content-type": "application/json"}))


@pytest.mark.parametrize(("path", "body"), AWKWARD.values(), ids=AWKWARD)
def test_what_only_the_engine_or_mlflow_can_refuse_is_the_client_s_error(limited, path, body):
    assert_answered(limited.post(path, json=body))


@pytest.mark.parametrize(("content_type", "content"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_payload_that_mlflow_cannot_read_is_the_client_s_error(limited, content_type, content):
    headers = {"content-type": content_type} if content_type else {}
    assert_answered(limited.post("/invocations", content=content, headers=headers))
