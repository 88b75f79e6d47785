"""OpenAI's unmodified client on a stock `mlflow models serve`, and MLflow's tracing of what it does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import jsonschema
import mlflow
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel, ConfigDict, Field

pytestmark = pytest.mark.slow

CHAT: dict[str, Any] = {
    "model": "any",
    "messages": [{"role": "user", "content": "What is a loop?"}],
    "max_tokens": 8,
    "temperature": 0,
}
DRAWN = {**CHAT, "temperature": 1.5, "n": 4}
# More answers than run together, each about as long as the context allows: no test waits for their end.
LONG: dict[str, Any] = {"model": "any", "n": 128, "max_tokens": 480, "extra_body": {"ignore_eos": True}}
ENDLESS: dict[str, Any] = {**CHAT, **LONG}
AGES: dict[str, Any] = {**LONG, "prompt": ["A loop"] * 8}  # many times longer than any client here waits
GIVE_UP_S = 3
WAIT_S = 60


class Verdict(BaseModel):
    """How good an answer is."""

    model_config = ConfigDict(extra="forbid")

    score: int = Field(ge=1, le=5)
    topics: list[Literal["loops", "classes"]] = Field(max_length=2)
    is_right: bool


@pytest.fixture
def client(server):
    """OpenAI's client, without retries."""
    with OpenAI(base_url=server.url, api_key="none", max_retries=0, timeout=WAIT_S) as client:
        yield client


def text_of(chunks: Sequence[Any]) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


def test_a_chat_says_the_same_whole_streamed_and_awaited(client, server):
    async def awaited() -> list[str]:
        async with AsyncOpenAI(base_url=server.url, api_key="none", max_retries=0) as client:
            whole = await client.chat.completions.create(**CHAT)
            chunks = [chunk async for chunk in await client.chat.completions.create(**CHAT, stream=True)]
            return [whole.choices[0].message.content, text_of(chunks)]

    whole = client.chat.completions.create(**CHAT)
    chunks = list(client.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True}))
    assert len(whole.choices[0].message.content) > 8
    assert {text_of(chunks), *asyncio.run(awaited())} == {whole.choices[0].message.content}
    assert chunks[-1].usage == whole.usage
    assert whole.usage.completion_tokens == 8
    assert whole.choices[0].finish_reason == "length"


def test_answers_follow_a_schema_whole_parsed_and_streamed(client):
    asked = {**CHAT, "max_tokens": 60}
    schema = {"name": "verdict", "schema": Verdict.model_json_schema()}
    plain = client.chat.completions.create(**asked, response_format={"type": "json_schema", "json_schema": schema})
    jsonschema.validate(json.loads(plain.choices[0].message.content), Verdict.model_json_schema())
    parsed = client.chat.completions.parse(**asked, response_format=Verdict)
    with client.chat.completions.stream(**asked, response_format=Verdict) as stream:
        streamed = stream.get_final_completion()
    verdict = parsed.choices[0].message.parsed
    assert isinstance(verdict, Verdict)
    assert streamed.choices[0].message.parsed == verdict


def test_n_seed_and_stop_do_what_openai_says(client):
    first, again, other = (client.chat.completions.create(**DRAWN, seed=seed) for seed in (1, 1, 2))
    texts = [choice.message.content for choice in first.choices]
    assert len(set(texts)) == 4
    assert texts == [choice.message.content for choice in again.choices]
    assert texts != [choice.message.content for choice in other.choices]
    whole = client.chat.completions.create(**CHAT).choices[0].message.content
    stop = whole[4:7]
    stopped = client.chat.completions.create(**CHAT, stop=[stop]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == (whole[: whole.index(stop)], "stop")


def test_a_completion_has_its_prompt_and_log_probabilities(client):
    asked = {"model": "any", "prompt": "A loop repeats", "max_tokens": 3, "temperature": 0}
    [choice] = client.completions.create(**asked, logprobs=2, echo=True).choices
    continued = client.completions.create(**asked).choices[0].text
    streamed = "".join(chunk.choices[0].text for chunk in client.completions.create(**asked, stream=True))
    assert choice.text == "A loop repeats" + continued == "A loop repeats" + streamed
    logprobs = choice.logprobs
    assert logprobs.token_logprobs[0] is None
    assert max(logprobs.token_logprobs[1:]) < 0
    for logprob, best in zip(logprobs.token_logprobs[-3:], logprobs.top_logprobs[-3:], strict=True):
        assert logprob == max(best.values())  # greedy
    assert "".join(logprobs.tokens[-3:]) == continued


def test_raw_and_streaming_responses_can_be_read(client):
    raw = client.chat.completions.with_raw_response.create(**CHAT)
    assert raw.headers["x-request-id"] == raw.request_id
    said = raw.parse().choices[0].message.content
    with client.chat.completions.with_streaming_response.create(**CHAT) as response:
        assert json.loads(response.read())["choices"][0]["message"]["content"] == said
    with client.chat.completions.with_streaming_response.create(**CHAT, stream=True) as response:
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    assert "".join(json.loads(line)["choices"][0]["delta"].get("content", "") for line in lines[:-1]) == said


def test_the_one_model_can_be_listed_and_retrieved(client):
    [model] = client.models.list()
    assert client.models.retrieve(model.id) == model
    with pytest.raises(openai.NotFoundError, match="has the model") as caught:
        client.models.retrieve("other")
    assert caught.value.code == "model_not_found"


def test_a_prompt_beyond_the_context_is_a_bad_request_with_a_code(client):
    messages = [{"role": "user", "content": "loop " * 3000}]
    with pytest.raises(openai.BadRequestError, match="Shorten the prompt") as caught:
        client.chat.completions.create(**{**CHAT, "messages": messages})
    assert caught.value.code == "context_length_exceeded"
    assert "loop loop" not in str(caught.value)


def test_typed_decisions_have_the_client_s_types(client):
    topics = [{"value": "loops", "description": "repeating"}, {"value": True}]
    levels = [{"label": "bad"}, {"label": "good"}]
    questions = [
        {"type": "predicate", "name": "right", "instructions": "Is it right?"},
        {"type": "choice", "name": "topic", "instructions": "Which topic?", "choices": topics},
        {
            "type": "score",
            "name": "quality",
            "instructions": "How good?",
            "levels": levels,
        },
    ]
    decision = client.decisions.create(model="any", input="A loop repeats its body.", questions=questions)
    right, topic, quality = decision.answers
    assert [answer.name for answer in decision.answers] == ["right", "topic", "quality"]
    assert 0 < right.probability < 1
    assert [share.value for share in topic.probabilities] == ["loops", True]
    assert sum(share.probability for share in topic.probabilities) == pytest.approx(1)
    assert quality.score == pytest.approx(quality.probabilities[1].probability)
    assert decision.usage.total_tokens == decision.usage.input_tokens > 0


def test_a_full_queue_is_a_rate_limit_and_a_closed_stream_makes_room(client, server):
    with client.chat.completions.create(**ENDLESS, stream=True) as stream:
        next(iter(stream))
        with pytest.raises(openai.RateLimitError, match="MLFLOW_LLM_MAX_QUEUE_SIZE") as caught:
            client.chat.completions.create(**CHAT)
    assert caught.value.code == "queue_full"
    assert int(caught.value.response.headers["retry-after"]) >= 1
    server.wait_until_idle()
    assert client.chat.completions.create(**CHAT).choices


def test_a_client_that_gives_up_leaves_its_place(client, server):
    hasty = client.with_options(timeout=GIVE_UP_S)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(hasty.completions.create, **AGES)
        server.wait_until(lambda: server.open_answers >= server.allowed_answers)
        with pytest.raises(openai.APITimeoutError):
            asked.result(WAIT_S)
    server.wait_until_idle()
    whole = client.chat.completions.create(**{**CHAT, "n": server.allowed_answers})
    assert len(whole.choices) == server.allowed_answers


def test_a_client_is_let_in_with_its_key_only(serve):
    with serve(MLFLOW_LLM_API_KEY="right") as server, OpenAI(base_url=server.url, api_key="wrong") as client:
        with pytest.raises(openai.AuthenticationError, match="valid API key") as caught:
            client.chat.completions.create(**CHAT)
        assert caught.value.code == "invalid_api_key"
        assert client.with_options(api_key="right").chat.completions.create(**CHAT).choices


@pytest.fixture
def autologged(tracking):
    """A function that returns the tokens and the span of the last call that MLflow traced."""

    def last() -> tuple[dict[str, int], mlflow.entities.Span]:
        mlflow.flush_trace_async_logging()
        trace = mlflow.get_trace(mlflow.get_last_active_trace_id())
        [span] = trace.data.spans
        return trace.info.token_usage, span

    mlflow.openai.autolog()
    yield last
    mlflow.openai.autolog(disable=True)


def test_mlflow_traces_chats_and_streams_with_their_tokens(client, server, autologged):
    async def awaited() -> None:
        async with AsyncOpenAI(base_url=server.url, api_key="none") as client:
            async for _ in await client.chat.completions.create(**streamed):
                pass

    streamed = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    calls: list[Callable[[], Any]] = [
        lambda: client.chat.completions.create(**CHAT),
        lambda: list(client.chat.completions.create(**streamed)),
        lambda: asyncio.run(awaited()),
    ]
    expected = client.chat.completions.create(**CHAT)
    for call in calls:
        call()
        usage, span = autologged()
        assert span.span_type == "CHAT_MODEL"
        assert span.outputs["choices"][0]["message"]["content"] == expected.choices[0].message.content
        assert usage["input_tokens"] == expected.usage.prompt_tokens
        assert usage["output_tokens"] == expected.usage.completion_tokens
        assert usage["total_tokens"] == expected.usage.total_tokens
