"""Requests say what the settings say, with prompts that are made up, given or read."""

from __future__ import annotations

import json

import pytest

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.loadtest.bodies import Prompt, read_prompts, request_bodies
from mlflow_llm_plugins.loadtest.settings import Load, Target


def bodies(prompts: list[Prompt] | None = None, target: dict | None = None, **load: object) -> list[dict]:
    chosen = Target(url="http://localhost:1", **(target or {}))
    return [json.loads(body) for body in request_bodies(chosen, Load(clients=1, **load), prompts)]


def test_chat_asks_for_a_stream_with_usage():
    (body,) = bodies(["Hi"], {"model": "m"}, requests=1, max_tokens=7, ignore_eos=True, body={"temperature": 0})
    assert body == {
        "messages": [{"role": "user", "content": "Hi"}],
        "model": "m",
        "max_tokens": 7,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize("target", [{"path": "/invocations"}, {"stream": False}])
def test_whole_answers_are_asked_for_without_a_word_on_streams(target):
    (body,) = bodies(["Hi"], target, requests=1, max_tokens=7)
    assert body == {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 7}


def test_completion_has_the_prompt_itself():
    (body,) = bodies(["Hi"], {"path": "/v1/completions"}, requests=1)
    assert body["prompt"] == "Hi"


def test_given_prompts_are_used_in_turn_and_the_warm_up_has_those_after_the_measured():
    found = bodies(["a", "b", "c"], requests=2, warmup=3)
    assert [body["messages"][0]["content"] for body in found] == ["a", "b", "c", "a", "b"]


def test_whole_body_goes_over_the_settings_and_the_extra_fields_over_it():
    prompt = {"prompt": "Hi", "max_tokens": 3, "top_p": 0.5, "stream": False}
    (body,) = bodies([prompt], {"path": "/v1/completions"}, requests=1, max_tokens=9, body={"top_p": 0.9})
    assert (body["prompt"], body["max_tokens"], body["top_p"], body["stream"]) == ("Hi", 3, 0.9, True)


def test_made_up_prompts_follow_from_the_seed_and_have_the_length_asked_for():
    first, again, other = (bodies(requests=4, warmup=1, prompt_words=12, seed=seed) for seed in (1, 1, 2))
    prompts = [body["messages"][0]["content"] for body in first]
    assert first == again
    assert first != other
    assert {len(prompt.split()) for prompt in prompts} == {12}
    assert len(set(prompts)) == 5


def test_made_up_token_ids_have_the_length_asked_for():
    found = bodies(target={"path": "/v1/completions"}, requests=3, prompt_tokens=9)
    assert all(len(body["prompt"]) == 9 and all(isinstance(i, int) for i in body["prompt"]) for body in found)


def test_chat_refuses_token_ids():
    with pytest.raises(InvalidInputError) as error:
        bodies(prompt_tokens=9)
    assert str(error.value) == (
        "/v1/chat/completions takes no token ids: leave prompt_tokens out, or use a path that ends in /v1/completions."
    )


def test_extra_fields_may_not_speak_of_streams():
    with pytest.raises(InvalidInputError, match="body must not have stream or stream_options: the target's"):
        bodies(body={"stream": True, "temperature": 0})


def test_no_prompts_are_refused():
    with pytest.raises(InvalidInputError, match="There are no prompts: give at least one"):
        bodies([])


def test_text_file_has_a_prompt_a_line(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_bytes('first\r\n\n{"second"}\u2028still\nthird'.encode())
    assert read_prompts(file) == ["first", '{"second"}\u2028still', "third"]


def test_jsonl_file_has_prompts_and_bodies(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text('"two\\nlines"\n{"messages": []}\n', encoding="utf-8")
    assert read_prompts(file) == ["two\nlines", {"messages": []}]


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("x.jsonl", '"a"\nsecret\n', "line 2 is not JSON"),
        ("x.jsonl", "[1]\n", "line 1 must be a string or an object, got list."),
        ("x.txt", "\n\n", "are empty: write one a line."),
    ],
)
def test_bad_file_is_refused_without_showing_what_it_says(tmp_path, name, text, problem):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(InvalidInputError) as error:
        read_prompts(tmp_path / name)
    assert problem in str(error.value)
    assert "secret" not in str(error.value)


def test_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(InvalidInputError, match=r"none\.txt' cannot be read: "):
        read_prompts(tmp_path / "none.txt")
