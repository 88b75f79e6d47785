from __future__ import annotations

import json
import math
import random
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.metrics.base import MetricValue

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.evaluation.predictions.prediction import Prediction
from mlflow_llm_plugins.evaluation.results.cells import json_value
from mlflow_llm_plugins.evaluation.results.table import results_table
from mlflow_llm_plugins.metrics.metric import row_scores

CELLS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(alphabet=st.characters())  # lone surrogates, too
    | st.binary()
    | st.dates()
    | st.just(pd.NA)
    | st.just(object),
    lambda cells: st.lists(cells) | st.tuples(cells) | st.dictionaries(st.text() | st.integers(), cells),
    max_leaves=8,
)


@given(CELLS)
def test_any_cell_becomes_json_that_pandas_can_write_and_stays_so(cell: Any):
    value = json_value(cell)
    assert json.loads(json.dumps(value, allow_nan=False)) == value
    assert json_value(value) == value
    pd.DataFrame({"cell": pd.Series([value], dtype=object)}).to_json(orient="split").encode("utf-8")


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (math.nan, None),
        (math.inf, None),
        (pd.NaT, None),
        (np.array([[1.0, math.nan]]), [[1.0, None]]),
        ((1, {"a": np.int8(2)}), [1, {"a": 2}]),
        ("a\ud800b", "a?b"),
        ("مرحبا 👋", "مرحبا 👋"),
        (2**64, "18446744073709551616"),
        (date(2026, 3, 1), "2026-03-01"),
        (b"\xff", "b'\\xff'"),
    ],
)
def test_values_of_other_libraries_become_the_nearest_value_of_json(cell: Any, expected: Any):
    value = json_value(cell)
    assert value == expected
    assert type(value) is type(expected)


def test_messages_of_the_openai_client_become_dictionaries():
    from openai.types.chat import ChatCompletionMessage

    message = ChatCompletionMessage(role="assistant", content="hello")
    assert json_value([message]) == [{"role": "assistant", "content": "hello"}]


def test_a_list_that_holds_itself_and_an_object_that_cannot_be_printed_do_not_stop_the_table():
    class Unprintable:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    circle: list[Any] = []
    circle.append(circle)
    assert "[[[" in json.dumps(json_value(circle))
    assert json_value([Unprintable(), 10**5000]) == ["<Unprintable>", "<int>"]


def _predictions(texts: list[str]) -> list[Prediction]:
    return [
        Prediction(text, latency=1.0 + row, prompt_tokens=10 * row, completion_tokens=row, others={"rank": row})
        for row, text in enumerate(texts)
    ]


def test_the_table_has_each_rows_own_values_in_the_documented_order():
    rng = random.Random(3)
    texts = [f"answer {rng.random()}" for _ in range(4)]
    scores = [rng.random() for _ in texts]
    chats = [[{"role": "user", "content": text}] for text in texts]
    metric = row_scores(scores, ["good", None, None, None], columns={"confidence": [0.1, 0.2, 0.3, np.float64(0.4)]})
    predictions = [*_predictions(texts[:3]), Prediction(error="the server timed out", others={"rank": 3})]

    table = results_table(
        pd.DataFrame({"messages": chats, "topic": list("abcd")}, index=[7, 7, 1, 0]),
        pd.Series(texts, index=[3, 2, 1, 0]),
        None,
        predictions,
        None,
        {"judge/v1": metric, "corpus_bleu": MetricValue(aggregate_results={"corpus_bleu": 3.0})},
    )

    assert list(table.columns) == [
        *["messages", "topic", "target", "outputs", "rank"],
        *["judge/v1/score", "judge/v1/justification", "judge/v1/confidence"],
        *["prompt_tokens", "completion_tokens", "loaded_latency", "error"],
    ]
    assert table["messages"].tolist() == chats
    assert table["target"].tolist() == texts
    assert table["outputs"].tolist() == [*texts[:3], None]
    assert table["rank"].tolist() == [0, 1, 2, 3]
    assert table["judge/v1/score"].tolist() == scores
    assert table["judge/v1/justification"].tolist() == ["good", None, None, None]
    assert table["judge/v1/confidence"].tolist() == [0.1, 0.2, 0.3, 0.4]
    assert table["prompt_tokens"].tolist() == [0, 10, 20, None]
    assert table["loaded_latency"].tolist() == [1.0, 2.0, 3.0, None]
    assert table["error"].tolist() == [None, None, None, "the server timed out"]


def test_static_predictions_have_neither_tokens_nor_latency():
    table = results_table(pd.DataFrame({"q": ["a"]}), None, None, [Prediction("b")], "answer", {})
    assert table.to_dict("list") == {"q": ["a"], "answer": ["b"], "error": [None]}


def test_a_column_whose_name_is_taken_gets_a_number():
    features = pd.DataFrame([[1, 2, 3, 4]], columns=["outputs", "error", "error", 0])
    table = results_table(features, [5], "error", [Prediction("text")], None, {})
    assert table.to_dict("records") == [
        {"outputs": 1, "error": 2, "error_2": 3, "0": 4, "error_3": 5, "outputs_2": "text", "error_4": None}
    ]


def test_a_metric_with_another_number_of_rows_is_left_out_with_a_warning(caplog: pytest.LogCaptureFixture):
    metrics = {"short/v1": MetricValue(scores=[1.0]), "right/v1": MetricValue(scores=np.array([1, 2]))}
    table = results_table(pd.DataFrame({"q": "ab"}, index=[0, 1]), None, None, _predictions(["x", "y"]), None, metrics)
    assert "short/v1/score" not in table
    assert table["right/v1/score"].tolist() == [1, 2]
    assert "Column 'short/v1/score' must have 2 rows, one a prediction; got 1." in caplog.text


def test_features_of_another_length_are_refused():
    with pytest.raises(InvalidInputError, match="Column 'q' must have 1 rows, one a prediction; got 2"):
        results_table(pd.DataFrame({"q": [1, 2]}), None, None, [Prediction("a")], None, {})
