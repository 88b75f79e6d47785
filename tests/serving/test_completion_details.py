"""Log-probabilities, echoed prompts and tools over HTTP, whole and streamed."""

from __future__ import annotations

import json
import math

import pytest
from openai.types.chat import ChatCompletion

CHAT = {"messages": [{"role": "user", "content": "What is a loop?"}], "max_tokens": 4, "temperature": 0}


def post(client, path, body, status=200):
    response = client.post(path, json=body)
    assert response.status_code == status, response.text
    return response.json()


def chunks(client, path, body):
    with client.stream("POST", path, json={**body, "stream": True}) as response:
        assert response.status_code == 200
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    return [json.loads(line) for line in lines[:-1]]


def test_a_chat_has_a_row_of_log_probabilities_for_each_token(client):
    body = {**CHAT, "logprobs": True, "top_logprobs": 3}
    rows = ChatCompletion.model_validate(post(client, "/v1/chat/completions", body)).choices[0].logprobs.content
    assert len(rows) == 4
    for row in rows:
        assert len(row.top_logprobs) == 3
        assert row.logprob == pytest.approx(row.top_logprobs[0].logprob)  # greedy
    streamed = [
        row
        for chunk in chunks(client, "/v1/chat/completions", body)
        for choice in chunk["choices"]
        for row in (choice["logprobs"] or {"content": []})["content"]
    ]
    assert [row["token"] for row in streamed] == [row.token for row in rows]


def test_an_echoed_prompt_has_the_log_probabilities_of_the_engine_s_score(client, served):
    ids = served.engine.tokenizer("A loop repeats its body.")["input_ids"]
    [scores] = served.engine.score([ids])
    body = {"prompt": [ids], "max_tokens": 1, "echo": True, "logprobs": 1, "temperature": 0}
    found = post(client, "/v1/completions", body)["choices"][0]["logprobs"]
    assert found["token_logprobs"][0] is None
    assert found["token_logprobs"][1:-1] == pytest.approx(list(scores), abs=1e-4)
    assert all(math.isfinite(best) for top in found["top_logprobs"][1:] for best in top.values())


@pytest.mark.parametrize("n", [1, 2])
def test_a_prompt_alone_is_scored_without_generating(client, served, n):
    body = {"prompt": ["A loop", "A class"], "max_tokens": 0, "echo": True, "logprobs": 0, "n": n}
    answer = post(client, "/v1/completions", body)
    assert [choice["text"] for choice in answer["choices"]] == ["A loop"] * n + ["A class"] * n
    assert answer["usage"]["completion_tokens"] == 0
    assert answer["choices"][0]["logprobs"]["token_logprobs"][1] < 0
    texts = {}
    for chunk in chunks(client, "/v1/completions", body):
        for choice in chunk["choices"]:
            texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    assert [texts[i] for i in range(2 * n)] == ["A loop"] * n + ["A class"] * n
    assert served.engine.stats().open_requests == 0


@pytest.mark.parametrize("prompt", [[-1], [2**40], [4_000_000_000]])
@pytest.mark.parametrize("logprobs", [None, 0])
def test_ids_outside_the_vocabulary_are_refused_also_where_nothing_is_generated(client, prompt, logprobs):
    body = {"prompt": [prompt], "max_tokens": 0, "echo": True, "logprobs": logprobs}
    error = post(client, "/v1/completions", body, status=400)["error"]
    assert "outside the model's vocabulary" in error["message"]


def test_a_prompt_alone_is_echoed_and_counted_without_log_probabilities(client):
    counted = tokens_of_prompts(client)
    answer = post(client, "/v1/completions", {"prompt": "A loop", "max_tokens": 0, "echo": True})
    assert (answer["choices"][0]["text"], answer["choices"][0]["logprobs"]) == ("A loop", None)
    assert tokens_of_prompts(client) - counted == answer["usage"]["prompt_tokens"] > 0


def tokens_of_prompts(client):
    lines = client.get("/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith("mlflow_llm_prompt_tokens_total")).split()[1])


def test_an_echo_comes_before_the_text_of_each_choice(client):
    body = {"prompt": "A loop", "max_tokens": 3, "echo": True, "n": 2, "temperature": 1, "seed": 4}
    whole = [choice["text"] for choice in post(client, "/v1/completions", body)["choices"]]
    plain = [choice["text"] for choice in post(client, "/v1/completions", {**body, "echo": False})["choices"]]
    assert whole == ["A loop" + text for text in plain]


def test_tools_are_refused_where_the_template_would_drop_them(client):
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    error = post(client, "/v1/chat/completions", {**CHAT, "tools": tools}, status=400)["error"]
    assert "tools" in error["message"]
    assert error["code"] == "unsupported_parameter"


def test_usage_tells_what_of_the_prompt_was_cached(client, served):
    prompt = served.engine.tokenizer("a method of a class in a module " * 20)["input_ids"][:80]
    usages = [post(client, "/v1/completions", {"prompt": prompt, "max_tokens": 2})["usage"] for _ in range(2)]
    assert [usage["prompt_tokens_details"]["cached_tokens"] for usage in usages] == [0, 64]
