"""The column that a metric reads: evaluators are told of it before the rows are answered."""

from __future__ import annotations

import mlflow
import pandas as pd
import pytest

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.evaluation.columns import Columns
from mlflow_llm_plugins.evaluation.computing import prepare
from mlflow_llm_plugins.metrics.likelihood.divergence import divergence
from mlflow_llm_plugins.metrics.likelihood.perplexity import perplexity
from tests.metrics.context_engine import ContextEngine

ENGINE, OTHER = ContextEngine(), ContextEngine(noise=0.1)
FRAME = pd.DataFrame({"question": ["ab", "cd"], "answer": ["ef", "gh"], "truth": ["ij", "kl"]})


def both(**options):
    return perplexity(ENGINE, **options), divergence(ENGINE, OTHER, **options)


@pytest.mark.parametrize("number", [0, 1], ids=["perplexity", "divergence"])
@pytest.mark.parametrize("texts", ["targets", "inputs"])
def test_a_column_that_is_asked_for_and_not_there_is_refused_before_the_rows_are_answered(number, texts):
    metric = both(texts=texts)[number]
    with pytest.raises(InvalidInputError, match=f"^Metric '{metric.name}' needs '{texts}'"):
        prepare([metric], Columns(inputs=FRAME), more_columns=False)
    there = Columns(inputs=FRAME.assign(inputs="ab"), targets=["ef", "gh"])
    prepare([metric], there, more_columns=False)


def test_without_a_choice_predictions_will_do():
    for options in ({}, {"texts": "predictions"}):
        prepare(both(**options), Columns(inputs=FRAME), more_columns=False)


@pytest.mark.parametrize("texts", ["predictions", "targets", "inputs"])
def test_the_chosen_column_is_read_whichever_others_are_given(texts):
    columns = {"predictions": ["ab"], "targets": ["cd"], "inputs": ["ef"]}
    for metric, plain in zip(both(texts=texts), both(), strict=True):
        expected = plain(columns[texts]).scores
        assert metric(**columns).scores == metric(**{texts: columns[texts]}).scores == expected


def test_columns_behind_the_one_that_is_needed_go_by_name():
    with pytest.raises(InvalidInputError) as error:
        perplexity(ENGINE, texts="targets")(["ab"], ["cd"])
    assert str(error.value) == (
        "Metric 'perplexity': too many positional arguments. It takes: predictions=None, *, targets, inputs=None, "
        "engine=None."
    )


@pytest.mark.parametrize("texts", ["targets", "inputs"])
def test_the_default_evaluator_of_mlflow_gives_the_chosen_column(texts, tracking):
    metric = perplexity(ENGINE, texts=texts)
    frame = FRAME.rename(columns={"question": "inputs"})
    with mlflow.start_run():
        result = mlflow.models.evaluate(
            data=frame, predictions="answer", targets="truth", evaluators="default", extra_metrics=[metric]
        )
    expected = perplexity(ENGINE)(frame["truth" if texts == "targets" else "inputs"]).aggregate_results
    assert result.metrics["perplexity/v1"] == expected["perplexity"]
