"""Answers are what OpenAI's and MLflow's own types read."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from mlflow.types.llm import ChatCompletionResponse

from mlflow_llm_plugins.openai_api import chat_completion, text_completion


@pytest.fixture
def openai_types():
    return pytest.importorskip("openai.types")


@dataclass
class Output:
    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str = "stop"


def test_a_chat_completion_is_openai_s_and_mlflow_s(openai_types):
    answer = chat_completion("m", [Output("yes", 5, 2), Output("no", 5, 3, "length")])
    read = openai_types.chat.ChatCompletion.model_validate(answer)
    assert read.model_dump(exclude_unset=True) == answer
    assert [choice.message.content for choice in read.choices] == ["yes", "no"]
    assert [choice.index for choice in read.choices] == [0, 1]
    assert [choice.finish_reason for choice in read.choices] == ["stop", "length"]
    assert ChatCompletionResponse.from_dict(answer).choices[1].message.content == "no"


def test_a_text_completion_is_openai_s_with_choices_numbered_through_the_prompts(openai_types):
    answer = text_completion("m", [[Output("a", 3, 1), Output("b", 3, 1)], [Output("c", 4, 2), Output("d", 4, 2)]])
    read = openai_types.Completion.model_validate(answer)
    assert read.model_dump(exclude_unset=True) == answer
    assert [(choice.index, choice.text) for choice in read.choices] == [(0, "a"), (1, "b"), (2, "c"), (3, "d")]


def test_a_prompt_counts_once_however_many_answers_it_got():
    one = chat_completion("m", [Output("a", 5, 2), Output("b", 5, 3)])
    assert one["usage"] == {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}
    two = text_completion("m", [[Output("a", 3, 1), Output("b", 3, 1)], [Output("c", 4, 2), Output("d", 4, 2)]])
    assert two["usage"] == {"prompt_tokens": 7, "completion_tokens": 6, "total_tokens": 13}


def test_every_answer_has_an_id_of_its_own():
    ids = {chat_completion("m", [Output("a", 1, 1)])["id"] for _ in range(100)}
    assert len(ids) == 100
    assert all(answer_id.startswith("chatcmpl-") for answer_id in ids)
