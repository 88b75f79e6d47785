"""Rows that a model of our flavor answers in this process."""

from __future__ import annotations

import mlflow
import numpy as np
import pandas as pd
import pytest

from mlflow_llm_plugins import quantized_llm
from mlflow_llm_plugins.errors import InvalidInputError, UnsupportedFeatureError
from mlflow_llm_plugins.evaluation.predictions import PredictOptions, source_of

PARAMS = {"max_tokens": 6, "ignore_eos": True}


@pytest.fixture(scope="module")
def model(tiny_llama, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "chat"
    quantized_llm.save_model(str(tiny_llama), str(path), task="llm/v1/completions")
    loaded = mlflow.pyfunc.load_model(str(path))
    yield loaded
    loaded.get_raw_model().close()


def source(model, frame, **options):
    return source_of(model, frame, PredictOptions(params=PARAMS, **options))


def test_answers_are_those_of_predict_with_the_tokens_and_their_times(model):
    prompts = ["A loop", "A function returns", "In the morning"]
    found = source(model, pd.DataFrame({"prompt": prompts})).predict_all()
    expected = model._model_impl.predict_each(prompts, PARAMS, max_in_flight=1)
    assert [row.output for row in found] == [row.text for row in expected]
    for row in found:
        assert row.error is None
        assert row.completion_tokens == len(row.token_times) == 6
        assert list(row.token_times) == sorted(row.token_times)
        assert row.latency == row.token_times[-1]
        assert 0 < row.time_to_first_token <= row.latency
        assert row.prompt_tokens > 0


def test_rows_that_fail_leave_the_others_alone(model):
    frame = pd.DataFrame({"id": range(4), "prompt": ["A loop", "word " * 5000, float("nan"), "A function"]})
    first, too_long, missing, last = source(model, frame).predict_all()
    assert first.error is last.error is None
    assert "context" in too_long.error
    assert "word word" not in too_long.error
    assert missing.error == "A row must be a string or a list of messages, got nan."
    assert (too_long.output, too_long.latency, too_long.token_times) == (None, None, ())


@pytest.mark.parametrize("cell", [list, np.array])
def test_a_column_of_messages_is_asked_as_chats(model, cell):
    conversations = [[{"role": "user", "content": text}] for text in ("Hello", "What is a loop?")]
    frame = pd.DataFrame({"messages": [cell(messages) for messages in conversations], "topic": ["a", "b"]})
    found = source(model, frame).predict_all()
    expected = model._model_impl.predict_each(conversations, PARAMS)
    assert [row.output for row in found] == [row.text for row in expected]
    assert [row.prompt_tokens for row in found] == [row.prompt_tokens for row in expected]


def test_a_sample_is_asked_one_at_a_time_and_the_rest_is_not_there(model):
    frame = pd.DataFrame({"prompt": [f"Row {i} says" for i in range(10)]})
    asked = source(model, frame)
    sampled = asked.predict_unloaded(3, seed=1)
    rows = [i for i, row in enumerate(sampled) if row is not None]
    everything = asked.predict_all()
    assert len(rows) == 3
    assert [sampled[i].output for i in rows] == [everything[i].output for i in rows]
    assert rows == [i for i, row in enumerate(source(model, frame).predict_unloaded(3, seed=1)) if row is not None]


def test_what_is_asked_and_how_is_described(model):
    asked = source(model, pd.DataFrame({"prompt": ["a"]}), max_in_flight=5)
    assert asked.can_stream
    assert asked.describe() == {"source": "engine", "max_in_flight": 5, "params": PARAMS}
    own = source_of(model, pd.DataFrame({"prompt": ["a"]})).describe()["max_in_flight"]
    assert own == model._model_impl.max_in_flight


def test_parameters_that_are_wrong_for_any_row_are_an_error_of_the_whole(model):
    asked = source_of(model, pd.DataFrame({"prompt": ["a"] * 3}), PredictOptions(params={"temperature": -1}))
    for ask in (asked.predict_all, lambda: asked.predict_unloaded(2)):
        with pytest.raises(InvalidInputError, match="temperature"):
            ask()


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"stream": True}, "stream is"),
        ({"stream_options": {"include_usage": True}}, "stream_options is"),
        ({"messages": []}, "messages is"),
        ({"stream": True, "prompt": "secret"}, "prompt, stream are"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs is"),
    ],
)
def test_what_belongs_to_whole_requests_is_refused_before_anything_is_generated(model, params, named):
    with pytest.raises(UnsupportedFeatureError) as refusal:
        source_of(model, pd.DataFrame({"prompt": ["a"]}), PredictOptions(params=params))
    assert f"{named} not supported in params for rows" in str(refusal.value)
    assert "secret" not in str(refusal.value)


def test_fields_of_whole_requests_that_ask_for_nothing_are_let_through(model):
    params = {**PARAMS, "stream": False, "stream_options": None, "prompt": None, "chat_template_kwargs": {}}
    (row,) = source_of(model, pd.DataFrame({"prompt": ["a"]}), PredictOptions(params=params)).predict_all()
    assert row.completion_tokens == 6
