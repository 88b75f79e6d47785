"""The metrics of an evaluation, from what the user asked for."""

from __future__ import annotations

import pandas as pd
import pytest

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.evaluation.chosen import chosen_metrics
from mlflow_llm_plugins.evaluation.columns import Columns
from mlflow_llm_plugins.metrics import word_count

COLUMNS = Columns(inputs=pd.DataFrame({"inputs": ["a", "b"]}), targets=["c", "d"])


def chosen(named, extra):
    metrics = chosen_metrics("text", named, extra, COLUMNS, has_engine=False)
    return [metric.name for metric in metrics]


def test_extra_metrics_come_behind_those_that_were_named_or_are_of_the_type():
    assert chosen(["exact_match"], iter([word_count()])) == ["exact_match", "word_count"]
    assert chosen([], ["word_count"]) == ["word_count"]
    of_type = chosen(None, [])
    assert chosen(None, (word_count(name="words"),)) == [*of_type, "words"]


@pytest.mark.parametrize("named", [None, ["exact_match"]])
@pytest.mark.parametrize("extra", [word_count(), "word_count", {"word_count": 1}, 7])
def test_extra_metrics_that_are_no_list_are_refused_in_words(named, extra):
    with pytest.raises(InvalidInputError) as error:
        chosen(named, extra)
    assert str(error.value) == f"extra_metrics must be a list of metrics, got {extra!r}. Put it in brackets."


def test_the_same_metric_named_and_given_is_refused_by_its_place_in_both():
    with pytest.raises(InvalidInputError, match=r"number 1 \('word_count'\) and number 3 \('word_count'\)"):
        chosen(["word_count", "exact_match"], ["word_count"])
