"""All reference metrics together: in MLflow's default evaluator, and on whatever text there is."""

from __future__ import annotations

import math
import sys

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_llm_plugins.errors import InvalidInputError, MissingDependencyError
from mlflow_llm_plugins.metrics.reference.distance import edit_distance
from mlflow_llm_plugins.metrics.reference.hub_metric import evaluate_metric
from mlflow_llm_plugins.metrics.reference.matching import exact_match, token_f1
from mlflow_llm_plugins.metrics.reference.ngrams import bleu, chrf
from mlflow_llm_plugins.metrics.reference.rouge import rouge1, rouge2, rougeL, rougeLsum

METRICS = {
    make.__name__: make
    for make in (exact_match, token_f1, rouge1, rouge2, rougeL, rougeLsum, bleu, chrf, edit_distance)
}
CELLS = st.one_of(
    st.text(max_size=20),
    st.none(),
    st.floats(),
    st.integers(),
    st.booleans(),
    st.binary(max_size=3),
    st.lists(st.text(max_size=5) | st.none(), max_size=3),
)


def test_the_default_evaluator_runs_all_of_them(tracking):
    import mlflow

    data = pd.DataFrame({
        "prediction": ["the cat sat down", "Paris", "猫坐在垫子上"],
        "target": ["the cat sat up", "Paris", "猫坐在垫子下"],
    })  # fmt: skip
    metrics = {name: make() for name, make in METRICS.items()}
    with mlflow.start_run():
        result = mlflow.models.evaluate(
            data=data, predictions="prediction", targets="target", extra_metrics=list(metrics.values()),
            evaluators="default", evaluator_config={"log_model_explainability": False},
        )  # fmt: skip
    table = result.tables["eval_results_table"]
    for name, metric in metrics.items():
        alone = metric(data["prediction"], data["target"])
        assert table[f"{name}/v1/score"].tolist() == pytest.approx(alone.scores, abs=1e-9)
        for aggregate, value in alone.aggregate_results.items():
            key = f"{name}/v1" if aggregate == name else f"{name}/v1/{aggregate}"
            assert result.metrics[key] == pytest.approx(value)
    assert result.metrics["exact_match/v1"] == pytest.approx(1 / 3)
    assert 0 < result.metrics["bleu/v1/corpus"] < 100


@pytest.mark.parametrize("name", METRICS)
def test_names_versions_and_directions_are_those_that_users_know(name):
    metric = METRICS[name]()
    assert (metric.name, metric.version) == (name, "v1")
    assert metric.greater_is_better is (name != "edit_distance")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(CELLS, CELLS), max_size=4))
def test_any_cell_has_a_score_or_a_reason(rows):
    predictions, targets = [left for left, _ in rows], [right for _, right in rows]
    for make in METRICS.values():
        result = make()(predictions, targets)
        assert len(result.scores) == len(rows)
        for row, score in enumerate(result.scores):
            assert math.isfinite(score) or str(result.justifications[row]).startswith(("the prediction", "the target"))


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("text", ["a" * 100_000, "中文字" * 33_000, "🙂" * 100_000, "שלום עולם " * 9_000])
def test_long_texts_of_any_script_equal_themselves(name, text):
    has_words = "🙂" not in text
    best = {"edit_distance": 0, "bleu": 100, "chrf": 100}.get(name, 1)
    if name == "rouge2" and " " not in text and "中" not in text:
        best = 0  # a single word has no pairs
    if name.startswith("rouge") and not has_words:
        best = 0
    assert METRICS[name]()([text], [text]).scores == [pytest.approx(best)]


@pytest.mark.parametrize("name", METRICS)
def test_missing_and_uneven_columns_are_refused(name):
    with pytest.raises(InvalidInputError, match=rf"Metric '{name}': missing a required argument: 'targets'"):
        METRICS[name]()(["a"])
    with pytest.raises(InvalidInputError, match="must have the same length"):
        METRICS[name]()(["a"], ["a", "b"])


@pytest.mark.parametrize(
    ("make", "module", "package"),
    [
        (rouge1, "rouge_score.rouge_scorer", "rouge-score"),
        (bleu, "sacrebleu", "sacrebleu"),
        (chrf, "sacrebleu", "sacrebleu"),
        (edit_distance, "rapidfuzz.distance", "rapidfuzz"),
        (token_f1, "regex", "regex"),
        (lambda: evaluate_metric("meteor"), "evaluate", "evaluate"),
    ],
)
def test_a_missing_package_is_named_with_its_command_when_the_metric_is_made(monkeypatch, make, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError) as caught:
        make()
    assert str(caught.value).startswith(f"This metric needs {package}")
    assert str(caught.value).endswith("pip install 'mlflow-llm-plugins[evaluation]'")
