"""Every answer has the key `predictions`, and a completion stays what it is beside it."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from mlflow_llm_plugins.deployments.answers import predictions_of

USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


def chat(*texts):
    choices = [{"index": i, "message": {"role": "assistant", "content": text}} for i, text in enumerate(texts)]
    return {"id": "1", "object": "chat.completion", "choices": choices, "usage": USAGE}


def completion(*texts):
    choices = [{"index": i, "text": text, "finish_reason": "stop"} for i, text in enumerate(texts)]
    return {"id": "1", "object": "text_completion", "choices": choices, "usage": USAGE}


@pytest.mark.parametrize("kind", [chat, completion])
@pytest.mark.parametrize("texts", [("a",), ("b", "a")])
def test_a_completion_is_kept_and_its_texts_are_the_predictions(kind, texts):
    found = predictions_of(kind(*texts))
    assert dict(found) == {**kind(*texts), "predictions": list(texts)}
    assert found.get_predictions()[0].tolist() == list(texts)
    assert json.loads(found.to_json()) == dict(found)


def test_judges_find_the_text_of_a_chat():
    assert predictions_of(chat("5"))["choices"][0]["message"]["content"] == "5"


def test_the_list_in_which_stock_flavors_answer_a_chat_is_taken_off():
    assert predictions_of([chat("5")]) == predictions_of(chat("5"))


def test_a_choice_without_text_has_no_prediction():
    call = {"index": 0, "message": {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}}
    assert predictions_of({"choices": [call]})["predictions"] == [None]


def test_predictions_of_mlflows_server_are_kept_with_what_is_beside_them():
    answer = {"predictions": [{"a": 1}, {"a": 2}], "metadata": 1}
    found = predictions_of(answer)
    assert dict(found) == answer
    pd.testing.assert_frame_equal(found.get_predictions(), pd.DataFrame({"a": [1, 2]}))


@pytest.mark.parametrize(
    "answer", [[1, 2], "text", None, 3, {"a": [1]}, [], {"choices": "none"}, {"choices": [1]}, [[1]]]
)
def test_anything_else_is_the_predictions(answer):
    found = predictions_of(answer)
    assert dict(found) == {"predictions": answer}
    assert json.loads(found.to_json()) == {"predictions": answer}


def test_answer_is_written_to_a_file(tmp_path):
    predictions_of(chat("a")).to_json(tmp_path / "answer.json")
    assert json.loads((tmp_path / "answer.json").read_text())["predictions"] == ["a"]
