"""Who evaluates: the evaluator takes part where it was asked for, and changes nothing elsewhere."""

from __future__ import annotations

import mlflow
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

DATA = pd.DataFrame({"question": ["What?", "Why?"], "answer": ["A loop.", "So."], "truth": ["A loop.", "Never."]})
STOCK = mlflow.metrics.exact_match


def evaluate(**arguments):
    call = {"data": DATA, "predictions": "answer", "targets": "truth", **arguments}
    return mlflow.models.evaluate(**call)


def took_part(result):
    """Keys that only the evaluator of this package gives."""
    return "error_rate" in result.metrics


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"evaluators": "llm"}, True),
        ({"evaluators": "llm", "evaluator_config": {"llm": {"metrics": ["word_count"]}}}, True),
        ({"evaluators": ["llm"]}, True),
        ({"evaluators": ["llm", "default"], "evaluator_config": {"llm": {}}}, True),
        ({"evaluators": ["default", "llm"]}, True),
        ({"evaluators": "default"}, False),
        ({"evaluators": None}, False),
        ({"evaluators": None, "evaluator_config": {"col_mapping": {}}}, False),
        ({"evaluators": None, "evaluator_config": {"metric_prefix": "x_"}}, False),
        ({"evaluators": None, "evaluator_config": {"default": {"metric_prefix": "x_"}}}, False),
        ({"evaluators": None, "evaluator_config": {"llm": {"plots": False}}}, True),
        ({"evaluators": None, "evaluator_config": {"llm": {"plots": False}, "default": {}}}, True),
    ],
)
def test_it_takes_part_where_it_was_asked_for(arguments, expected, tracking):
    result = evaluate(model_type=None, extra_metrics=[STOCK()], **arguments)
    assert took_part(result) == expected


@pytest.mark.parametrize("model_type", ["llm", "chat"])
def test_its_own_model_types_need_no_name(model_type, tracking):
    assert took_part(evaluate(model_type=model_type))


@pytest.mark.parametrize(("model_type", "table"), [("llm", "eval"), ("text", "llm_eval")])
def test_evaluators_that_cannot_evaluate_the_model_type_take_no_part(model_type, table, tracking, monkeypatch):
    monkeypatch.setattr("mlflow.models.evaluation.evaluators.default.DefaultEvaluator._builtin_metrics", lambda _: [])
    with mlflow.start_run() as run:
        result = evaluate(model_type=model_type, evaluators=["default", "llm"], evaluator_config={"llm": {}})
    assert f"{table}_results_table" in result.artifacts
    files = [file.path for file in mlflow.MlflowClient().list_artifacts(run.info.run_id)]
    assert [file for file in files if "table" in file] == [f"{table}_results_table.json"]


@pytest.mark.parametrize("evaluators", [None, "default"])
def test_stock_evaluations_are_what_they_are_without_it(evaluators, tracking, monkeypatch):
    from mlflow.models.evaluation.evaluator_registry import _model_evaluation_registry as registry

    def results():
        with mlflow.start_run() as run:
            result = evaluate(model_type=None, extra_metrics=[STOCK()], evaluators=evaluators)
        stored = mlflow.get_run(run.info.run_id)
        files = [file.path for file in mlflow.MlflowClient().list_artifacts(run.info.run_id)]
        tags = {name for name in stored.data.tags if name.startswith("llm.eval")}
        return result.metrics, sorted(result.artifacts), stored.data.metrics, files, tags

    with_it = results()
    monkeypatch.delitem(registry._registry, "llm")
    assert results() == with_it


def test_unknown_model_type_names_those_that_it_knows(tracking):
    with pytest.raises(MlflowException, match=r"cannot evaluate model_type='question-anwering'.*'question-answering'"):
        evaluate(model_type="question-anwering", evaluators="llm")


def test_classifiers_are_left_to_the_default_evaluator(tracking):
    with pytest.raises(MlflowException, match="for other models use evaluators='default'"):
        evaluate(model_type="classifier", evaluators="llm")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"max_error_rat": 1}, r"unknown key 'max_error_rat'\. Did you mean 'max_error_rate'\?"),
        ({"llm": {"plot": False}}, r"unknown key 'plot'\. Did you mean 'plots'\?"),
        ({"max_error_rate": 2}, r"max_error_rate=2: .*less than or equal to 1"),
        ({"metrics": "rouge1"}, r"metrics='rouge1'"),
        ({"metrics": ["rouge11"]}, r"Unknown metric 'rouge11'\. Did you mean 'rouge1'\?"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_asked(config, message, tracking):
    asked = []
    with pytest.raises(MlflowException, match=message):
        mlflow.models.evaluate(
            model=lambda frame: asked.append(frame) or ["x"] * len(frame),
            data=DATA[["question"]],
            model_type="text",
            evaluators="llm",
            evaluator_config=config,
        )
    assert not asked
