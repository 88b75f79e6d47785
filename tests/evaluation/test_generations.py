from __future__ import annotations

import json
import math
import random
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

from mlflow_llm_plugins.evaluation.generations import log_generations
from mlflow_llm_plugins.generation.requests import GenerationOutput

COLUMNS = ["inputs", "outputs", "model", "params", "prompt_tokens", "completion_tokens", "latency"]


def _logged(run_id: str, file: str = "generations.json") -> list[dict[str, Any]]:
    """The rows as they are in the store, without pandas' guesses."""
    with tempfile.TemporaryDirectory() as folder:
        path = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=file, dst_path=folder)
        table = json.loads(Path(path).read_text())
    return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]


def _chat(text: str | None, prompt_tokens: int = 5, completion_tokens: int = 2, **message: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "local/chat",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text, **message}}
        ],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    }


def test_a_prompt_and_its_answer_make_one_row_with_every_column(tracking: str):
    with mlflow.start_run() as run:
        frame = log_generations("What is a run?", "A record.", params={"temperature": 0.2}, latency=0.5)
    expected = {
        **dict.fromkeys(COLUMNS),
        "inputs": "What is a run?",
        "outputs": "A record.",
        "params": {"temperature": 0.2},
        "latency": 0.5,
    }
    assert frame.to_dict("records") == [expected]
    assert _logged(run.info.run_id) == [expected]
    table = mlflow.load_table("generations.json", run_ids=[run.info.run_id])
    assert list(table.columns) == COLUMNS
    assert table["outputs"].tolist() == ["A record."]
    assert (
        '{"path": "generations.json", "type": "table"}'
        in mlflow.get_run(run.info.run_id).data.tags["mlflow.loggedArtifacts"]
    )


def test_later_calls_add_rows_as_they_are(tracking: str):
    texts = ["007", "2026-01-01", "1e5", "true", "مرحبا", "plain"]
    random.shuffle(texts)
    with mlflow.start_run() as run:
        for text in texts:
            log_generations(f"say {text}", text, columns={"made_at": [text]})
        log_generations(["x"], ["y"], columns={"topic": ["z"]})
    rows = _logged(run.info.run_id)
    assert [row["outputs"] for row in rows] == [*texts, "y"]
    assert [row["made_at"] for row in rows] == [*texts, None]
    assert [row["topic"] for row in rows] == [None] * len(texts) + ["z"]
    assert list(rows[0]) == [*COLUMNS, "made_at", "topic"]
    assert len(json.loads(mlflow.get_run(run.info.run_id).data.tags["mlflow.loggedArtifacts"])) == 1


def test_columns_of_any_kind_of_list_keep_their_rows(tracking: str):
    numbers = [random.randrange(1000) for _ in range(4)]
    frame = log_generations(
        pd.Series([f"prompt {number}" for number in numbers], index=[3, 1, 2, 0]),
        np.array([f"answer {number}" for number in numbers]),
        params=[{"seed": number} for number in numbers],
        prompt_tokens=np.array(numbers),
        completion_tokens=tuple(numbers),
        latency=[number / 7 for number in numbers],
        model="tiny",
        columns={"topic": pd.Series(numbers, index=[3, 1, 2, 0])},
    )
    for number, row in zip(numbers, frame.to_dict("records"), strict=True):
        assert row == {
            "inputs": f"prompt {number}",
            "outputs": f"answer {number}",
            "model": "tiny",
            "params": {"seed": number},
            "prompt_tokens": number,
            "completion_tokens": number,
            "latency": number / 7,
            "topic": number,
        }


def test_conversations_and_openai_responses_are_taken_apart(tracking: str):
    from openai.types import Completion
    from openai.types.chat import ChatCompletion

    chats = [[{"role": "user", "content": f"question {number}"}] for number in range(3)]
    text_completion = {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 1,
        "model": "local/text",
        "choices": [{"index": 0, "text": "third", "finish_reason": "stop", "logprobs": None}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13},
    }
    outputs = [_chat("first"), ChatCompletion.model_validate(_chat("second", 7, 3)), Completion(**text_completion)]
    frame = log_generations(chats, outputs)
    assert frame["inputs"].tolist() == chats
    assert frame["outputs"].tolist() == ["first", "second", "third"]
    assert frame["model"].tolist() == ["local/chat", "local/chat", "local/text"]
    assert frame["prompt_tokens"].tolist() == [5, 7, 9]
    assert frame["completion_tokens"].tolist() == [2, 3, 4]

    one = log_generations(chats[0], outputs[1])
    assert one["inputs"].tolist() == [chats[0]]
    assert one["outputs"].tolist() == ["second"]


def test_what_the_engine_returns_has_its_counts_and_latency(tracking: str):
    output = GenerationOutput("two words", (5, 6, 7), (), 11, "stop", token_times=(0.1, 0.2, 0.35))
    like_it = SimpleNamespace(text="other", prompt_tokens=3, completion_tokens=1, token_times=())
    frame = log_generations(["a", "b"], [output, like_it])
    assert frame["outputs"].tolist() == ["two words", "other"]
    assert frame["prompt_tokens"].tolist() == [11, 3]
    assert frame["completion_tokens"].tolist() == [3, 1]
    assert frame["latency"].tolist() == [0.35, None]


def test_given_values_go_before_those_of_answers_which_fill_the_gaps(tracking: str):
    frame = log_generations(["a", "b"], [_chat("x"), _chat("y")], prompt_tokens=[100, None], model=[None, "mine"])
    assert frame["prompt_tokens"].tolist() == [100, 5]
    assert frame["model"].tolist() == ["local/chat", "mine"]


def test_several_choices_calls_of_tools_and_missing_answers_are_kept(tracking: str):
    two = {"choices": [{"text": "left"}, {"text": "right"}]}
    calls = [{"id": "1", "type": "function", "function": {"name": "time", "arguments": "{}"}}]
    frame = log_generations(list("abcd"), [two, _chat(None, tool_calls=calls), None, {"verdict": math.nan}])
    assert frame["outputs"].tolist() == [
        ["left", "right"],
        {"role": "assistant", "content": None, "tool_calls": calls},
        None,
        {"verdict": None},
    ]


def test_without_a_run_one_is_started_and_stays_active(tracking: str):
    log_generations("a", "b")
    run = mlflow.active_run()
    assert run is not None
    log_generations("c", "d")
    assert [row["inputs"] for row in _logged(run.info.run_id)] == ["a", "c"]


def test_another_run_and_a_file_in_a_folder_can_be_named(tracking: str):
    run_id = mlflow.MlflowClient().create_run(mlflow.get_experiment_by_name("tests").experiment_id).info.run_id
    for _ in range(2):
        log_generations("a", "b", run_id=run_id, artifact_file="chats/monday.json")
    assert mlflow.active_run() is None
    assert len(_logged(run_id, "chats/monday.json")) == 2


def test_rows_are_added_to_a_table_that_mlflow_logged(tracking: str):
    with mlflow.start_run() as run:
        mlflow.log_table({"inputs": ["old"], "grade": [3]}, "generations.json")
        log_generations("new", "answer")
    assert [(row["inputs"], row["grade"]) for row in _logged(run.info.run_id)] == [("old", 3), ("new", None)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"outputs": ["x"]}, "outputs must have one value a row: inputs has 2, outputs has 1."),
        ({"latency": [1.0, 2.0, 3.0]}, "latency must have one value a row: inputs has 2, latency has 3."),
        ({"latency": 1.0}, "latency must have one value a row: inputs has 2, latency has 1."),
        ({"latency": ["1s", None]}, "latency must be a number of at least 0 or None, one a row; got '1s'."),
        ({"latency": [0.5, -1]}, "latency must be a number of at least 0 or None, one a row; got -1."),
        ({"prompt_tokens": [True, 3]}, "prompt_tokens must be a number of at least 0 or None, one a row; got True."),
        (
            {"outputs": (text for text in "xy")},
            "outputs must be a list with one value a row, got a generator: make it a list.",
        ),
        ({"params": [{}]}, "params must have one value a row: inputs has 2, params has 1."),
        ({"params": ["hot", None]}, "params must be a dictionary, or a list with one a row; got 'hot'."),
        ({"columns": {"topic": "ab"}}, "topic must have one value a row: inputs has 2, topic has 1."),
        ({"columns": ["topic"]}, "columns must be a dictionary, name -> one value a row, got list."),
        ({"columns": {"model": ["a", "b"]}}, "columns must not have the names of the table's own"),
        ({"inputs": [], "outputs": []}, "inputs must have at least one row, got none."),
        ({"inputs": pd.DataFrame({"q": ["a", "b"]})}, "inputs must be one column, got a DataFrame with ['q']"),
        ({"artifact_file": "table.csv"}, "artifact_file must end in '.json', got 'table.csv'."),
        ({"artifact_file": None}, "artifact_file must end in '.json', got None."),
    ],
)
def test_wrong_arguments_are_named_and_start_no_run(tracking: str, arguments: dict[str, Any], message: str):
    with pytest.raises(MlflowException) as caught:
        log_generations(**{"inputs": ["a", "b"], "outputs": ["x", "y"], **arguments})
    assert message in caught.value.message
    assert caught.value.error_code == "INVALID_PARAMETER_VALUE"
    assert mlflow.active_run() is None


def test_an_array_of_one_text_is_one_row(tracking: str):
    with mlflow.start_run():
        table = log_generations(np.array("a prompt"), np.array("an answer"))
    assert table[["inputs", "outputs"]].values.tolist() == [["a prompt", "an answer"]]


@pytest.mark.parametrize("content", ["no json", '{"columns": ["a"]}', "[1]", '{"columns": ["a"], "data": [[1, 2]]}'])
def test_a_file_that_is_no_table_is_left_alone(tracking: str, content: str):
    with mlflow.start_run() as run:
        mlflow.log_text(content, "generations.json")
        with pytest.raises(MlflowException, match="is no table that rows can be added to: choose another file"):
            log_generations("a", "b")
        assert mlflow.artifacts.load_text(f"{run.info.artifact_uri}/generations.json") == content
