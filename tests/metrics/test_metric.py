"""The contract that all metrics share."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.metrics.base import MetricValue
from mlflow.models.evaluation.base import EvaluationMetric
from mlflow.utils.validation import MAX_ENTITY_KEY_LENGTH, _validate_metric_name

from mlflow_llm_plugins.errors import InvalidInputError, MissingDependencyError
from mlflow_llm_plugins.metrics.metric import (
    LLMMetric,
    NotScoredError,
    RowScores,
    is_missing,
    row_scores,
    score_each,
    scored_each,
    text_of,
)
from mlflow_llm_plugins.metrics.reference.rows import scored_texts

SECRET = "the row's own words"


def length(predictions, targets=None, limit=10):
    return score_each(lambda text: min(len(text), limit), predictions)


@pytest.fixture
def metric():
    return LLMMetric(length, "length", greater_is_better=True, metric_metadata={"limit": 10})


def test_a_metric_is_one_of_mlflow_with_a_version_and_a_main_figure(metric):
    assert isinstance(metric, EvaluationMetric)
    assert (metric.name, metric.version, metric.main, metric.greater_is_better) == ("length", "v1", "mean", True)
    assert metric.metric_metadata == {"limit": 10}


@pytest.mark.parametrize(
    "column", [list, tuple, iter, np.array, pd.Series, lambda texts: pd.Series(texts, index=[7, 7])]
)
def test_a_metric_scores_every_kind_of_column(metric, column):
    assert metric(column(["a", "bcd"])).scores == [1.0, 3.0]


def test_a_metric_takes_columns_by_name_and_leaves_what_is_no_column_as_it_is(metric):
    assert metric(predictions=["a", "bcd"], targets=["x", "y"], limit=2).scores == [1.0, 2.0]


def test_a_missing_or_unknown_column_is_refused_with_what_the_metric_takes(metric):
    takes = "It takes: predictions, targets=None, limit=10."
    with pytest.raises(InvalidInputError) as missing:
        metric()
    assert str(missing.value) == f"Metric 'length': missing a required argument: 'predictions'. {takes}"
    with pytest.raises(InvalidInputError) as unknown:
        metric(["a"], labels=["b"])
    assert str(unknown.value) == f"Metric 'length': got an unexpected keyword argument 'labels'. {takes}"


def test_columns_of_different_lengths_are_refused_with_both_lengths(metric):
    with pytest.raises(InvalidInputError) as error:
        metric(["a", "b"], ["c"])
    expected = "Metric 'length': columns must have the same length, got {'predictions': 2, 'targets': 1}."
    assert str(error.value) == expected


@pytest.mark.parametrize("text", ["one text", b"bytes"])
def test_a_text_in_place_of_a_column_is_refused(metric, text):
    with pytest.raises(InvalidInputError, match="predictions must be a list with one value a row, got a string"):
        metric(text)


@pytest.mark.parametrize(
    ("column", "what"),
    [
        (None, "None"),
        (7, "int"),
        ({"a": 1}, "dict"),
        (np.array("a text"), "ndarray"),
        (pd.DataFrame({"answer": ["a"]}), "DataFrame. Give one of its columns"),
    ],
)
def test_what_is_no_column_is_refused_where_the_metric_needs_one(metric, column, what):
    with pytest.raises(InvalidInputError) as error:
        metric(predictions=column)
    assert str(error.value) == f"predictions must be a list with one value a row, got {what}."


def test_a_table_is_refused_where_the_metric_could_do_without_the_column(metric):
    with pytest.raises(InvalidInputError, match=r"^targets must be a list .*, got DataFrame\. Give one of its col"):
        metric(["a"], pd.DataFrame({"target": ["a"]}))


def test_the_better_direction_may_be_unknown():
    assert LLMMetric(length, "length", greater_is_better=None).greater_is_better is None


def named(name, version="v1", **options):
    return LLMMetric(length, name, greater_is_better=True, version=version, **options)


@pytest.mark.parametrize("part", ["", ".", "..", "..a", "a/b", "a\n", "a?", "ä\t", 7, "../../secret"])
def test_a_name_or_version_that_mlflow_cannot_store_is_refused_at_once(part):
    for what, make in (("name", lambda: named(part)), ("version", lambda: named("a", part))):
        with pytest.raises(InvalidInputError) as error:
            make()
        assert str(error.value) == (
            f"A metric's {what} may have letters, digits, blanks and any of _-.: and may not be empty, nor '.', nor "
            f"begin with '..', got {part!r}."
        )


def test_names_are_as_long_as_leaves_room_for_the_figures_of_every_metric():
    assert len(named("a" * 197).name) == 197
    assert len(named("a" * 200, version=None).name) == 200
    with pytest.raises(InvalidInputError) as error:
        named("a" * 198)
    assert str(error.value) == (
        "A metric's name and version may have 200 characters together, got 201: MLflow stores keys of 250, and the "
        "names of figures come behind."
    )


@given(name=st.text(st.sampled_from("a.:- _ä1/"), max_size=6) | st.text(max_size=4), length=st.integers(1, 250))
def test_every_name_that_is_taken_is_one_that_mlflow_stores(name, length):
    for one in (name, name * length):
        try:
            metric = named(one)
        except InvalidInputError:
            continue
        for key in (metric.name, f"{metric.name}/v1", f"{metric.name}/v1/perplexity_baseline_standard_error"):
            _validate_metric_name(key)
            assert len(key) <= MAX_ENTITY_KEY_LENGTH


@pytest.mark.parametrize("name", ["mean", "variance", "p90", "count", "corpus"])
def test_a_name_that_a_figure_of_the_metric_has_is_refused(name):
    with pytest.raises(InvalidInputError) as error:
        named(name, figures=["corpus"])
    assert str(error.value) == (
        f"A metric cannot be called {name!r}, which is the name of one of its figures. Give another one, such as "
        f"'my_{name}'."
    )
    assert named("corpus").name == "corpus"


def test_no_rows_give_no_figures_but_their_number(metric):
    scores = metric([])
    assert (scores.scores, scores.justifications, scores.aggregate_results) == ([], None, {"count": 0.0})


@given(st.lists(st.one_of(st.none(), st.just(math.nan), st.floats(-1e6, 1e6)), max_size=30))
def test_figures_are_over_the_rows_that_have_a_score(values):
    scores = row_scores(values)
    valid = [value for value in values if value is not None and not math.isnan(value)]
    figures = scores.aggregate_results
    assert figures["count"] == len(valid)
    assert [math.isnan(score) for score in scores.scores] == [value is None or math.isnan(value) for value in values]
    assert set(figures) == ({"count", "mean", "variance", "p90"} if valid else {"count"})
    if valid:
        assert figures["mean"] == pytest.approx(statistics.fmean(valid), abs=1e-6)
        assert figures["variance"] == pytest.approx(statistics.pvariance(valid), rel=1e-6, abs=1e-6)
        assert figures["p90"] == pytest.approx(pd.Series(valid).quantile(0.9), abs=1e-6)


def test_further_figures_replace_the_standard_ones_and_nan_leaves_one_out():
    scores = row_scores([1.0, 3.0], aggregates={"mean": 7.0, "corpus": 5, "p90": math.nan})
    assert scores.aggregate_results == {"mean": 7.0, "variance": 1.0, "corpus": 5.0, "count": 2.0}


def test_the_number_of_valid_rows_cannot_be_replaced():
    assert row_scores([1.0, None], aggregates={"count": 9.0}).aggregate_results["count"] == 1.0


def test_justifications_are_none_when_no_row_has_one():
    assert row_scores([1.0, 2.0], [None, None]).justifications is None
    assert row_scores([1.0, None], [None, "why"]).justifications == [None, "why"]


def test_row_scores_are_mlflows_value_with_columns_for_the_table():
    scores = row_scores([1.0], columns={"margin": (0.5,)})
    assert isinstance(scores, MetricValue)
    assert isinstance(scores, RowScores)
    assert scores.columns == {"margin": [0.5]}


def test_a_row_that_fails_leaves_its_neighbours_alone_and_its_words_out_of_the_reason():
    def score(text):
        if text == SECRET:
            raise RuntimeError(f"cannot digest {text}")
        if text == "none":
            raise NotScoredError("it says none")
        return 1

    scores, reasons = scored_each(score, ["x", SECRET, "none", "y"])
    assert [scores[0], scores[3], math.isnan(scores[1]), math.isnan(scores[2])] == [1.0, 1.0, True, True]
    assert reasons == [None, "the metric failed with RuntimeError", "it says none", None]


def test_a_missing_package_is_no_fault_of_a_row():
    def score(text):
        raise MissingDependencyError("This metric needs gold: pip install gold")

    with pytest.raises(MissingDependencyError, match="needs gold"):
        scored_each(score, ["a"])
    with pytest.raises(MissingDependencyError, match="needs gold"):
        scored_texts(lambda prediction, references: score(prediction), ["a"], ["b"])


def test_reasons_name_the_column_of_the_cell_that_holds_no_text():
    _, reasons = scored_each(lambda prediction, target: 1.0, ["a", None, "b"], ["c", "d", 4])
    assert reasons == [None, "the prediction is missing", "the target is of type int, not text"]


@pytest.mark.parametrize("cell", [None, math.nan, np.nan, np.float32("nan"), pd.NA, pd.NaT])
def test_what_pandas_calls_missing_is_missing(cell):
    assert is_missing(cell)
    with pytest.raises(NotScoredError, match=r"^the answer is missing$"):
        text_of(cell, "answer")


@pytest.mark.parametrize("cell", ["", "nan", 0, 1.5, [], {}, np.array([math.nan]), False])
def test_what_only_looks_empty_is_not_missing(cell):
    assert not is_missing(cell)


@pytest.mark.parametrize(("cell", "kind"), [(4, "int"), (1.5, "float"), (b"x", "bytes"), (["a"], "list")])
def test_a_cell_of_another_type_is_no_text(cell, kind):
    with pytest.raises(NotScoredError, match=f"^the answer is of type {kind}, not text$"):
        text_of(cell, "answer")
