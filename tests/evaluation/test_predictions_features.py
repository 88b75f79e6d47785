"""Which column models are asked with, and how much memory a block takes."""

from __future__ import annotations

import threading
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.evaluation.predictions import PeakMemory
from mlflow_llm_plugins.evaluation.predictions.features import INPUT_COLUMNS, Features

CELLS = st.one_of(st.text(), st.none(), st.integers(), st.lists(st.dictionaries(st.text(), st.text())))


@given(st.lists(CELLS, min_size=1), st.text())
def test_the_only_column_is_asked_with_whatever_its_name(cells, name):
    frame = pd.DataFrame({name: pd.Series(cells, dtype=object)})
    assert Features(frame).inputs(None) == cells


@pytest.mark.parametrize("name", INPUT_COLUMNS)
def test_a_column_with_a_usual_name_is_found_among_others(name):
    frame = pd.DataFrame({"topic": ["t"], name: ["asked"], "source": ["s"]})
    assert Features(frame).inputs(None) == ["asked"]


@pytest.mark.parametrize("names", [("topic", "kind"), ("question", "prompt"), ("instruction", "input", "output")])
def test_columns_that_could_each_be_meant_are_refused_with_what_to_do(names):
    with pytest.raises(InvalidInputError) as refusal:
        Features(pd.DataFrame({name: ["x"] for name in names})).inputs(None)
    assert f"There are: {', '.join(map(repr, names))}." in str(refusal.value)
    assert "evaluator_config={'col_mapping': {'inputs': ...}}" in str(refusal.value)


def test_a_name_comes_before_all_guesses():
    frame = pd.DataFrame({"prompt": ["a"], "topic": ["b"]})
    assert Features(frame).inputs("topic") == ["b"]


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(InvalidInputError) as refusal:
        Features(pd.DataFrame({"question": ["a"], "topic": ["b"]})).inputs("qestion")
    assert "There is no column 'qestion' to ask the model with. Did you mean 'question'?" in str(refusal.value)
    assert "There are: 'question', 'topic'." in str(refusal.value)


def test_columns_of_an_array_are_found_by_their_names():
    data = np.array([["t", "asked"], ["u", "also"]], dtype=object)
    assert Features(data, ["topic", "question"]).inputs(None) == ["asked", "also"]
    assert Features(data[:, 1:]).inputs(None) == ["asked", "also"]


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (pd.DataFrame([["a", "b", "c"]], columns=["topic", "question", "question"]), None),
        (np.array([["a", "b", "c"]], dtype=object), ["question", "topic", "question"]),
    ],
)
def test_columns_of_one_name_are_refused(data, names):
    with pytest.raises(InvalidInputError, match=r"data has several columns 'question'; rename them\."):
        Features(data, names)


def test_arrays_inside_conversations_become_lists():
    parts = np.array([{"type": "text", "text": "hi"}], dtype=object)
    frame = pd.DataFrame({"messages": [np.array([{"role": "user", "content": parts}], dtype=object)]})
    assert Features(frame).inputs(None) == [
        [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
    ]


class TestPeakMemory:
    def test_memory_that_is_free_again_at_the_end_is_seen(self):
        size = 200 * 2**20
        with PeakMemory() as idle:
            pass
        with PeakMemory() as peak:
            block = np.ones(size, np.uint8)
            deadline = time.monotonic() + 10
            while peak.rss_bytes < idle.rss_bytes + 0.5 * size and time.monotonic() < deadline:
                sum(range(1000))  # let the thread look
            del block
        assert peak.rss_bytes >= idle.rss_bytes + 0.5 * size  # pages that are free already are taken first

    def test_the_thread_ends_with_the_block_also_after_an_error(self):
        def watching():
            return [thread for thread in threading.enumerate() if thread.name == "llm-peak-memory"]

        def fail():
            with PeakMemory():
                assert len(watching()) == 1
                raise ValueError("inside")

        with pytest.raises(ValueError, match="inside"):
            fail()
        assert watching() == []

    def test_without_cuda_nothing_is_said_of_it(self):
        with PeakMemory() as peak:
            pass
        assert peak.gpu_bytes is None
