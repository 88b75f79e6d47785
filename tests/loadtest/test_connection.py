"""One request is timed on a real connection, and whatever the server does is a result."""

from __future__ import annotations

import asyncio
import json

import pytest

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.loadtest import RequestResult, Target
from mlflow_llm_plugins.loadtest.connection import connected, now
from tests.e2e.serving import free_port
from tests.loadtest.server import PIECES, STEP_S, TOKENS, OpenAIServer

EARLY = 0.9  # a server's sleep may be short by the resolution of its clock
CONTENTS = sum(map(bool, PIECES))


def ask(target: Target, model: str = "steady", **fields: object) -> RequestResult:
    body = json.dumps({"model": model, "stream": target.streams, "prompt": "secret", **fields}).encode()

    async def once() -> RequestResult:
        async with connected(target) as connection:
            return await connection.ask(body, began=now())

    return asyncio.run(once())


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_stream_is_timed_chunk_by_chunk_and_its_tokens_are_the_servers_count(server: OpenAIServer, path):
    result = ask(Target(url=server.url, path=path))
    assert (result.failure, result.status, result.completion_tokens) == ("", 200, TOKENS)
    assert result.time_to_first_token >= EARLY * STEP_S
    assert len(result.gaps_s) == CONTENTS - 1
    assert result.end_to_end_latency >= EARLY * STEP_S * len(PIECES)
    assert result.first_token_s + sum(result.gaps_s) <= result.ended_s + 1e-9


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/invocations"])
def test_whole_answer_has_only_its_end(server: OpenAIServer, path):
    result = ask(Target(url=server.url, path=path, stream=False))
    assert (result.failure, result.completion_tokens) == ("", TOKENS)
    assert (result.time_to_first_token, result.gaps_s) == (None, ())
    assert result.end_to_end_latency > 0


def test_answers_without_usage_have_unknown_tokens(server: OpenAIServer):
    assert ask(Target(url=server.url), "no usage").completion_tokens is None
    assert ask(Target(url=server.url, path="/invocations"), "pyfunc").completion_tokens is None


def test_chunks_that_arrive_together_have_no_gap_and_a_finish_reason_ends_the_stream(server: OpenAIServer):
    result = ask(Target(url=server.url), "like transformers")
    assert (result.failure, result.completion_tokens) == ("", TOKENS)
    assert result.gaps_s == (0.0,) * (CONTENTS - 1)


@pytest.mark.parametrize(
    ("model", "status", "kind"),
    [
        ("busy", 429, "HTTP 429 rate_limit full"),
        ("broken", 500, "HTTP 500"),
        ("cut", 200, "cut off"),
        ("dies", 200, "cut off"),
        ("fails", 200, "error in the stream numbers"),
        ("says nothing", 200, "empty answer"),
        ("malformed", 200, "malformed answer"),
        ("never streams", 200, "answered with application/json instead of text/event-stream"),
    ],
)
def test_bad_answer_is_a_failure_of_its_kind(server: OpenAIServer, model, status, kind):
    result = ask(Target(url=server.url), model)
    assert (result.status, result.failure) == (status, kind)
    assert result.ended_s >= result.sent_s


def test_request_is_given_up_at_its_deadline(server: OpenAIServer):
    result = ask(Target(url=server.url, timeout_s=0.05), "hangs")
    assert (result.failure, result.status) == ("timeout", None)
    assert result.end_to_end_latency >= EARLY * 0.05


def test_server_that_is_not_there_is_a_failure():
    result = ask(Target(url=f"http://127.0.0.1:{free_port()}"))
    assert (result.failure, result.status) == ("ConnectError", None)


def test_api_key_comes_from_the_environment(server: OpenAIServer, monkeypatch):
    monkeypatch.setenv("MY_KEY", "s3cret")
    ask(Target(url=server.url, api_key_env="MY_KEY"))
    assert server.headers[0]["authorization"] == "Bearer s3cret"


def test_missing_api_key_is_refused_by_the_name_of_its_variable(monkeypatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(InvalidInputError, match="api_key_env='MY_KEY': there is no such environment variable"):
        ask(Target(url="http://localhost:1", api_key_env="MY_KEY"))
