"""Typed decisions: the probabilities of a plain forward pass, under limits, with errors that clients can read."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from openai.types import Decision

from mlflow_llm_plugins.openai_api.decisions import DecisionLimits, label_ids, parse_systemone, question_chats

QUESTIONS = {
    "loops": {"type": "noul", "instructions": "Is it about loops?"},
    "topic": {"type": "choice", "criteria": {"loops": "repeating", "classes": None, "modules": "files"}},
    "quality": {"type": "score", "instructions": "How good is it?", "criteria": ["bad", "fair", "good"]},
}
SYSTEMONE = {"model": "any", "state": {"text": "A loop repeats. </s>", "n": 1}, "questions": QUESTIONS}
DECISIONS = {
    "model": "any",
    "input": "A loop repeats.",
    "questions": [
        {"type": "predicate", "instructions": "Is it about loops?", "name": "loops"},
        {"type": "choice", "instructions": "Which topic?", "choices": [{"value": "loops"}, {"value": True}]},
        {"type": "score", "instructions": "How good?", "levels": [{"label": "bad"}, {"label": "good"}]},
    ],
}


def post(client, body, path="/v1/systemone", status=200):
    response = client.post(path, json=body)
    assert response.status_code == status, response.text
    return response.json()


@pytest.fixture(scope="module")
def plain(tiny_llama):
    """The checkpoint under transformers alone."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(tiny_llama).eval(), AutoTokenizer.from_pretrained(tiny_llama)


def logprob(model, ids, tail):
    """Of the tail behind the ids, by a forward pass of the whole."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*ids, *tail]])).logits[0]
    logprobs = logits[len(ids) - 1 : -1].double().log_softmax(-1)
    return math.fsum(float(row[token]) for row, token in zip(logprobs, tail, strict=True))


@pytest.mark.parametrize("names", [["loops"], ["topic"], ["quality"], ["loops", "topic", "quality"]])
def test_the_probabilities_are_those_of_whole_prompts_one_by_one(client, plain, names):
    model, tokenizer = plain
    body = {**SYSTEMONE, "questions": {name: QUESTIONS[name] for name in names}}
    answer = post(client, body)
    request = parse_systemone(body, DecisionLimits())
    for question, chat in zip(request.questions, question_chats(request), strict=True):
        prompt = tokenizer.apply_chat_template(
            list(chat), add_generation_prompt=True, sanitize_control_tokens=True, return_dict=False
        )
        ids = label_ids(tokenizer, prompt, question.labels)
        scores = [logprob(model, ids.stem, tail) for tail in ids.tails]
        total = math.fsum(map(math.exp, scores))
        expected = [math.exp(score) / total for score in scores]
        given = answer["answers"][question.name]
        shares = [given["noul"], 1 - given["noul"]] if question.type == "noul" else [*given["probabilities"].values()]
        assert shares == pytest.approx(expected, abs=1e-4)
        assert answer["diagnostics"][question.name]["label_mass"] == pytest.approx(total, abs=1e-4)


@pytest.mark.parametrize("prefix", ["", "/invocations"])
def test_both_formats_give_the_same_probabilities(client, prefix):
    one = post(
        client, {"state": "A loop repeats.", "questions": {"loops": QUESTIONS["loops"]}}, f"{prefix}/v1/systemone"
    )
    body = {**DECISIONS, "questions": DECISIONS["questions"][:1]}
    other = post(client, body, f"{prefix}/v1/decisions")
    assert set(one["answers"]["loops"]) == {"type", "noul"}
    assert 0 <= other["answers"][0]["probability"] <= 1
    Decision.model_validate(post(client, DECISIONS, "/v1/decisions"))


def test_input_tokens_count_a_shared_state_once_and_the_same_on_a_warm_cache(client):
    long = {**SYSTEMONE, "state": "A loop repeats its body. " * 15}
    usages = [post(client, long)["usage"] for _ in range(2)]
    alone = post(client, {**long, "questions": {"loops": QUESTIONS["loops"]}})["usage"]
    assert usages[0] == usages[1]
    assert usages[0]["input_tokens"] < 2 * alone["input_tokens"]


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("systemone", {**SYSTEMONE, "questions": {}}, 422, "questions must have at least one question"),
        ("systemone", {"questions": QUESTIONS}, 422, "state must be"),
        ("systemone", {**SYSTEMONE, "questions": {"a": {"type": "chioce"}}}, 422, "Did you mean 'choice'?"),
        ("systemone", {**SYSTEMONE, "stream": True}, 400, "stream is not supported"),
        ("systemone", {**SYSTEMONE, "images": ["x"]}, 400, "images is not supported"),
        (
            "systemone",
            {**SYSTEMONE, "questions": {str(i): QUESTIONS["loops"] for i in range(65)}},
            413,
            "at most 64 fit",
        ),
        ("systemone", {**SYSTEMONE, "state": "SECRET " * 600}, 400, "the context has 512"),
        ("systemone", [], 400, "must be a JSON object"),
        ("decisions", {**DECISIONS, "questions": []}, 422, "questions must have from 1 to 64 items"),
        ("decisions", {**DECISIONS, "input": 3}, 422, "input must be a string or a list of messages"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(client, path, body, status, words):
    response = client.post(f"/v1/{path}", json=body)
    assert response.status_code == status, response.text
    assert words in response.json()["error"]["message"]
    assert "SECRET" not in response.text


def test_requests_that_come_together_are_scored_right_and_a_bad_one_harms_no_other(client):
    bodies = [{**SYSTEMONE, "state": f"A loop repeats {i} times."} for i in range(24)]
    expected = [post(client, body)["answers"] for body in bodies]
    bodies[7] = {**SYSTEMONE, "state": "x " * 600}
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda body: client.post("/v1/systemone", json=body), bodies))
    assert [answer.status_code for answer in answers] == [400 if i == 7 else 200 for i in range(24)]
    for i, answer in enumerate(answers):
        if i != 7:
            given = answer.json()["answers"]
            assert given["loops"]["noul"] == pytest.approx(expected[i]["loops"]["noul"], abs=1e-4)


def test_decisions_and_chats_do_not_disturb_each_other(client):
    chat = {"messages": [{"role": "user", "content": "What is a loop?"}], "max_tokens": 30, "temperature": 0}
    alone = client.post("/v1/chat/completions", json=chat).json()["choices"]
    expected = post(client, SYSTEMONE)["answers"]
    with ThreadPoolExecutor(8) as pool:
        chats = [pool.submit(client.post, "/v1/chat/completions", json=chat) for _ in range(6)]
        decisions = [pool.submit(post, client, SYSTEMONE) for _ in range(6)]
        assert all(each.result().json()["choices"] == alone for each in chats)
        for each in decisions:
            assert each.result()["answers"]["loops"]["noul"] == pytest.approx(expected["loops"]["noul"], abs=1e-4)


def test_a_pinned_layout_moves_the_question(serve, monkeypatch):
    answers = []
    for layout in ("question_first", "state_first"):
        monkeypatch.setenv("MLFLOW_LLM_DECISION_LAYOUT", layout)
        with serve() as running, running.client() as client:
            answers.append(post(client, {**SYSTEMONE, "questions": {"loops": QUESTIONS["loops"]}})["answers"])
    assert answers[0] != answers[1]


def test_too_many_tokens_in_one_request_are_413(serve, monkeypatch):
    monkeypatch.setenv("MLFLOW_LLM_MAX_SCORED_TOKENS", "100")
    with serve() as running, running.client() as client:
        error = post(client, SYSTEMONE, status=413)["error"]
    assert "tokens are to be scored; one request may have 100 (MLFLOW_LLM_MAX_SCORED_TOKENS)" in error["message"]


def test_temperatures_of_the_checkpoint_flatten_the_answers(tiny_llama, tmp_path, serve):
    import shutil

    from mlflow_llm_plugins import quantized_llm

    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(tiny_llama, checkpoint)
    (checkpoint / "decision.json").write_text(json.dumps({"temperature": {"choice": 100.0}}), encoding="utf-8")
    quantized_llm.save_model(str(checkpoint), str(tmp_path / "model"), bundle_plugin=False)
    with serve(tmp_path / "model") as running, running.client() as client:
        shares = post(client, SYSTEMONE)["answers"]["topic"]["probabilities"].values()
    assert list(shares) == pytest.approx([1 / 3] * 3, abs=0.05)
