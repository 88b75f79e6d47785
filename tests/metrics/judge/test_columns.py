"""Columns that a judge sees: their names in the prompt, and messages as text."""

import math

import numpy as np
import pandas as pd
import pytest

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.metrics.judge.columns import cell_text, check_columns


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        (("predictions", "answer"), "answer"),
        (("question", "inputs"), "question"),
        (("targets", "predictions", "reference_answer"), "reference answer"),
        (("user_goal", "_user_goal"), "user goal"),
    ],
)
def test_two_columns_of_one_name_in_the_prompt_are_refused(columns, name):
    with pytest.raises(InvalidInputError) as error:
        check_columns(columns)
    assert f"columns: the prompt would call two of them {name!r}" in str(error.value)
    assert repr(columns) in str(error.value)
    assert "evaluator_config={'col_mapping': {'other': " in str(error.value)


def test_columns_with_names_of_their_own_are_taken():
    names = ("inputs", "predictions", "targets", "context", "user_goal", "answers")
    assert check_columns(list(names)) == names


def called(**message):
    return [{"role": "user", "content": "Weather?"}, {"role": "assistant", **message}]


CALL = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": '{"city": "Köln"}'}}
OTHER = {"function": {"name": "now", "arguments": {"zone": 1}}}


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ({"content": None, "tool_calls": [CALL]}, 'calls look_up({"city": "Köln"})'),
        ({"tool_calls": [CALL, OTHER]}, 'calls look_up({"city": "Köln"})\ncalls now({"zone": 1})'),
        ({"content": "", "tool_calls": (CALL,)}, 'calls look_up({"city": "Köln"})'),
        ({"content": "A moment.", "tool_calls": np.array([OTHER])}, 'A moment.\ncalls now({"zone": 1})'),
        ({"content": None, "function_call": {"name": "now", "arguments": "{}"}}, "calls now({})"),
        ({"content": None, "tool_calls": [{"function": {"name": "now"}}]}, 'calls {"function": {"name": "now"}}'),
        ({"tool_calls": [{"name": "now", "args": {"x": 1}}]}, 'calls {"name": "now", "args": {"x": 1}}'),
        ({"content": None, "tool_calls": [{"name": "now", "arguments": {"x": 1}}]}, 'calls now({"x": 1})'),
        ({"content": math.nan, "tool_calls": np.array([OTHER, "x"])}, 'calls now({"zone": 1})\ncalls "x"'),
        ({"content": pd.NA, "tool_calls": [OTHER], "function_call": pd.NA}, 'calls now({"zone": 1})'),
        ({"content": np.array([{"text": "Hi"}, {"text": "you"}])}, '[{"text": "Hi"}, {"text": "you"}]'),
        ({"content": None, "tool_calls": ["now"]}, 'calls "now"'),
        ({"content": "Dry.", "tool_calls": None, "function_call": None}, "Dry."),
        ({"content": "Dry.", "tool_calls": []}, "Dry."),
        ({"content": "Dry.", "tool_calls": 7}, "Dry.\ncalls 7"),
        ({"content": None}, "null"),
        ({"content": ""}, ""),
    ],
)  # fmt: skip
def test_calls_of_tools_are_shown_with_their_arguments(message, shown):
    assert cell_text(called(**message), "prediction") == f"user: Weather?\n\nassistant: {shown}"
