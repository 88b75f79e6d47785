"""Evaluations into a tracking store that is a folder, which cannot hold a key and others that begin with it."""

from __future__ import annotations

import mlflow
import pytest
from mlflow.metrics import MetricValue

from mlflow_llm_plugins.evaluation import compare_models

CONFIG = {"progress": False, "plots": False}


@pytest.fixture
def file_store(tracking, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "store").as_uri()
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    mlflow.set_experiment("files")


@pytest.fixture
def answered(questions):
    return questions.assign(answer=[*questions["truth"][:3], "no", "never"])


def evaluate(data=None, model=None, evaluators="llm", config=CONFIG, **arguments):
    call = {"model": model, "data": data, "targets": "truth", "evaluators": evaluators, "evaluator_config": config}
    return mlflow.models.evaluate(**call, **arguments)


def test_keys_that_others_begin_with_are_in_the_result_but_not_in_the_run(answered, file_store, caplog):
    with mlflow.start_run() as run:
        result = evaluate(answered, predictions="answer", model_type=None, extra_metrics=["exact_match", "rouge1"])
    logged = mlflow.get_run(run.info.run_id).data.metrics
    assert result.metrics["exact_match"] == result.metrics["exact_match/v1/mean"] == 0.6
    assert result.metrics.keys() - logged.keys() == {"exact_match", "exact_match/v1", "rouge1"}
    assert logged == pytest.approx({key: result.metrics[key] for key in logged})
    told = [record.getMessage() for record in caplog.records if "file store" in record.getMessage()]
    assert len(told) == 1
    rouge = f"{result.metrics['rouge1']:g}"
    assert told[0].startswith(f"Not logged: exact_match/v1=0.6, exact_match=0.6, rouge1={rouge}. A file store holds")


def test_keys_below_those_that_the_run_has_already_are_left_out(answered, file_store):
    with mlflow.start_run() as run:
        stock = evaluate(
            answered,
            predictions="answer",
            model_type=None,
            extra_metrics=[mlflow.metrics.exact_match()],
            evaluators="default",
            config=None,
        )
        evaluate(answered, predictions="answer", model_type=None, extra_metrics=["exact_match"])
    logged = mlflow.get_run(run.info.run_id).data.metrics
    assert {key for key in logged if key.startswith("exact_match")} == {"exact_match/v1"}
    assert logged["exact_match/v1"] == stock.metrics["exact_match/v1"]
    assert logged["rows"] == 5


def test_metrics_from_outside_have_nothing_to_leave_out(answered, file_store, caplog):
    def one(predictions):
        return MetricValue(scores=[1.0] * len(predictions))

    metrics = [mlflow.models.make_metric(eval_fn=one, greater_is_better=True), mlflow.metrics.exact_match()]
    with mlflow.start_run() as run:
        result = evaluate(answered, predictions="answer", model_type=None, extra_metrics=metrics)
    assert mlflow.get_run(run.info.run_id).data.metrics == pytest.approx(result.metrics)
    assert "Not logged" not in caplog.text


def test_figures_of_a_logged_model_are_logged_to_run_and_model(tiny_llama, questions, file_store):
    from mlflow_llm_plugins import quantized_llm

    info = quantized_llm.log_model(
        str(tiny_llama), name="chat", engine_config={"max_new_tokens": 4}, bundle_plugin=False
    )
    with mlflow.start_run() as run:
        evaluate(questions, info.model_uri, model_type=None, extra_metrics=["exact_match"])
    assert "exact_match/v1/mean" in mlflow.get_run(run.info.run_id).data.metrics
    assert "exact_match/v1/mean" in {metric.key for metric in mlflow.get_logged_model(info.model_id).metrics}


def test_models_are_compared(questions, file_store):
    def right(frame):
        return [f"It is {i}." for i in frame["number"]]

    def wrong(frame):
        return ["x"] * len(frame)

    models = {"right": right, "wrong": wrong}
    comparison = compare_models(models, questions, targets="truth", metrics=["exact_match"], evaluator_config=CONFIG)
    assert list(comparison.table["exact_match"]) == [1.0, 0.0]
