"""The routes of OpenAI's API, health and metrics."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion

from tests.e2e.serving import metric

MESSAGES = [{"role": "user", "content": "What is a loop?"}]
CHAT = {"messages": MESSAGES, "max_tokens": 4, "temperature": 0}
PREFIXES = ["", "/invocations"]
SCHEMA = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}


def post(client, path, body, status=200):
    response = client.post(path, json=body)
    assert response.status_code == status, response.text
    return response.json()


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_chat_is_answered_as_pyfunc_answers_it(client, served, prefix):
    answer = ChatCompletion.model_validate(post(client, f"{prefix}/v1/chat/completions", {**CHAT, "model": "any"}))
    expected = served.model.predict(CHAT)
    assert answer.choices[0].message.content == expected["choices"][0]["message"]["content"]
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 4


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_completion_has_the_choices_of_each_prompt(client, served, prefix):
    body = {"prompt": ["A loop", "A class"], "n": 2, "max_tokens": 3, "temperature": 1, "seed": 5}
    answer = Completion.model_validate(post(client, f"{prefix}/v1/completions", body))
    expected = served.model.predict(body)
    assert [choice.text for choice in answer.choices] == [choice["text"] for choice in expected["choices"]]
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]


def test_token_ids_are_prompts_too(client, served):
    ids = served.engine.tokenizer("A loop")["input_ids"]
    texts = [
        post(client, "/v1/completions", {"prompt": prompt, "max_tokens": 3})["choices"][0]["text"]
        for prompt in ("A loop", ids, [ids])
    ]
    assert texts[0] == texts[1] == texts[2]


def test_more_choices_than_the_engine_has_at_a_time_come_in_their_order(client, served):
    count = 3 * served.model._model_impl.max_in_flight
    prompts = [f"A loop {i}" for i in range(count)]
    whole = post(client, "/v1/completions", {"prompt": prompts, "max_tokens": 2})["choices"]
    assert [choice["index"] for choice in whole] == list(range(count))
    assert (
        whole[-1]["text"]
        == post(client, "/v1/completions", {"prompt": prompts[-1], "max_tokens": 2})["choices"][0]["text"]
    )


def test_answers_keep_to_a_form(client):
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    answer = post(client, "/v1/chat/completions", {**CHAT, "max_tokens": 20, "response_format": form})
    assert answer["choices"][0]["message"]["content"] in ('{"n":1}', '{"n":2}')
    chosen = post(client, "/v1/chat/completions", {**CHAT, "max_tokens": 20, "choice": ["yes", "no"]})
    assert chosen["choices"][0]["message"]["content"] in ("yes", "no")
    matched = post(client, "/v1/completions", {"prompt": "A", "max_tokens": 20, "regex": "[ab]{2}"})
    assert re.fullmatch("[ab]{2}", matched["choices"][0]["text"])


@pytest.mark.parametrize(
    ("path", "body", "words", "code"),
    [
        ("chat/completions", {"messages": []}, "messages must have at least one message", None),
        ("chat/completions", {"prompt": "x"}, "The request has no messages", None),
        ("chat/completions", {**CHAT, "temperature": -1}, "temperature must be from 0 (greedy) to 100, got -1", None),
        ("chat/completions", {**CHAT, "max_tokens": 10**6}, "Ask for at most", "context_length_exceeded"),
        ("chat/completions", {**CHAT, "audio": {"voice": "a"}}, "audio", "unsupported_parameter"),
        ("chat/completions", {**CHAT, "regex": "a", "choice": ["b"]}, "give one of them", None),
        (
            "chat/completions",
            {**CHAT, "stop": [str(i) for i in range(17)]},
            "stop has 17 stop strings; this server allows at most 16",
            None,
        ),
        ("chat/completions", {**CHAT, "n": 129}, "n has 129 choices; this server allows at most 128", None),
        ("completions", {"prompt": ["x"] * 257}, "prompt has 257 prompts; this server allows at most 256", None),
        ("completions", {"prompt": [10**7]}, "outside the model's vocabulary", None),
        ("completions", [], "The body must be a JSON object, got list", None),
        ("completions", {"prompt": ["ok", "x " * 600]}, "choice 1 (counting from 0) of 2", "context_length_exceeded"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(client, served, path, body, words, code):
    error = post(client, f"/v1/{path}", body, status=400)["error"]
    assert words in error["message"]
    assert (error["type"], error["code"]) == ("invalid_request_error", code)
    assert served.engine.stats().open_requests == 0


def test_one_request_of_many_that_cannot_be_answered_harms_no_other(client):
    good = {**CHAT, "max_tokens": 6}
    bodies = [good if i % 3 else {**CHAT, "max_tokens": 10**6} for i in range(24)]
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda body: client.post("/v1/chat/completions", json=body), bodies))
    assert [answer.status_code for answer in answers] == [200 if i % 3 else 400 for i in range(24)]
    texts = {answer.json()["choices"][0]["message"]["content"] for answer in answers if answer.status_code == 200}
    assert len(texts) == 1


def test_the_model_is_listed(client, served):
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list"
    [model] = [Model.model_validate(each) for each in listed["data"]]
    assert client.get(f"/v1/models/{model.id}").json() == listed["data"][0]
    assert listed["data"][0]["max_model_len"] == served.engine.stats().max_context_length
    missing = client.get("/v1/models/other")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


def test_there_are_no_embeddings_and_the_reason_is_said(client):
    error = post(client, "/v1/embeddings", {"input": "x"}, status=404)["error"]
    assert "it makes no embeddings" in error["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v1/chat/completions", 405), ("POST", "/v1/none", 404)]
)
def test_wrong_paths_and_methods_get_openai_s_error(client, method, path, status):
    response = client.request(method, path)
    assert response.status_code == status
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_a_wrong_method_of_mlflow_s_route_gets_mlflow_s_fields_as_well(client):
    response = client.get("/invocations")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert response.json()["error_code"] == "BAD_REQUEST"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": "x"}, "messages"),
        ({}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({**CHAT, "temperature": "hot"}, "temperature"),
        ({**CHAT, "temperature": -1}, "temperature"),
        ({**CHAT, "n": 2, "top_p": 7}, "top_p"),
        ({**CHAT, "best_of": 2}, "best_of"),
        ({**CHAT, "temprature": 1}, "temprature"),
        ({**CHAT, "response_format": {"type": "xml"}}, "response_format.type"),
        ({**CHAT, "tools": [{"type": "retrieval"}]}, "tools[0]"),
    ],
)
def test_an_error_names_the_field_that_it_is_about(client, body, param):
    assert post(client, "/v1/chat/completions", body, status=400)["error"]["param"] == param


@pytest.mark.parametrize("field", ["suffix", "guided_regex", "documents", "bad_words"])
def test_what_is_refused_is_not_repeated(client, field):
    error = post(client, "/v1/completions", {"prompt": "x", field: ["SECRET"]}, status=400)["error"]
    assert field in error["message"]
    assert "SECRET" not in error["message"]


@pytest.mark.parametrize("field", ["stop", "choice"])
def test_an_error_is_short_whatever_was_sent(client, field):
    error = post(client, "/v1/completions", {"prompt": "x", field: ["", "x" * 100_000]}, status=400)["error"]
    assert len(error["message"]) < 300


def test_health_and_readiness(client):
    assert client.get("/health").json() == {"status": "running"}
    assert client.get("/ready").json() == {"status": "ready"}
    assert client.get("/ping").status_code == 200


def test_the_metrics_count_what_was_answered(client, served):
    names = (
        "prompt_tokens_total",
        "completion_tokens_total",
        "time_to_first_token_seconds_count",
        "inter_token_latency_seconds_count",
    )
    before = {name: metric(client, name) for name in names}
    answer = post(client, "/v1/chat/completions", {**CHAT, "n": 2, "max_tokens": 5})
    after = {name: metric(client, name) for name in names}
    usage = answer["usage"]
    assert [after[name] - before[name] for name in names] == [usage["prompt_tokens"], 10, 2, 8]
    assert metric(client, "requests_running") == metric(client, "requests_queued") == 0
    text = client.get("/metrics").text
    assert 'mlflow_llm_requests_total{route="/v1/chat/completions",status="200"}' in text
    assert metric(client, "kv_cache_used_tokens") == 0 < metric(client, "kv_cache_tokens")


def test_prompts_that_begin_alike_are_counted_as_cached(client, served):
    prompt = served.engine.tokenizer("a loop in a class " * 30)["input_ids"][:100]
    before = metric(client, "prompt_tokens_cached_total")
    for _ in range(2):
        post(client, "/v1/completions", {"prompt": prompt, "max_tokens": 2})
    assert metric(client, "prompt_tokens_cached_total") - before == 96  # whole pages of 32 tokens
