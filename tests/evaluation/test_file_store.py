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


def test_keys_that_others_begin_with_are_logged_behind_themselves(answered, file_store, caplog):
    with mlflow.start_run() as run:
        result = evaluate(answered, predictions="answer", model_type=None, extra_metrics=["exact_match", "rouge1"])
    logged = mlflow.get_run(run.info.run_id).data.metrics
    assert result.metrics["exact_match"] == result.metrics["exact_match/v1/mean"] == 0.6
    renamed = {"exact_match", "exact_match/v1", "rouge1"}
    assert logged == pytest.approx(
        {f"{key}/main" if key in renamed else key: value for key, value in result.metrics.items()}
    )
    told = [record.getMessage() for record in caplog.records if "file store" in record.getMessage()]
    assert len(told) == 1
    assert "logged exact_match/v1 as exact_match/v1/main, exact_match as exact_match/main, rouge1 as" in told[0]


def test_a_second_evaluation_in_one_run_uses_the_same_keys(answered, file_store):
    with mlflow.start_run() as run:
        for _ in range(2):
            evaluate(answered, predictions="answer", model_type=None, extra_metrics=["exact_match"])
    logged = mlflow.get_run(run.info.run_id).data.metrics
    assert logged["exact_match/main"] == logged["exact_match/v1/mean"] == 0.6


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
    assert {key for key in logged if key.startswith("exact_match")} == {"exact_match/v1", "exact_match/main"}
    assert logged["exact_match/v1"] == stock.metrics["exact_match/v1"]
    assert logged["rows"] == 5


def test_metrics_from_outside_have_nothing_to_leave_out(answered, file_store, caplog):
    def one(predictions):
        return MetricValue(scores=[1.0] * len(predictions))

    metrics = [mlflow.models.make_metric(eval_fn=one, greater_is_better=True), mlflow.metrics.exact_match()]
    with mlflow.start_run() as run:
        result = evaluate(answered, predictions="answer", model_type=None, extra_metrics=metrics)
    assert mlflow.get_run(run.info.run_id).data.metrics == pytest.approx(result.metrics)
    assert "file store" not in caplog.text


def test_figures_of_the_metric_s_own_name_stay_what_they_are(answered, file_store, caplog):
    def one(predictions):
        return MetricValue(scores=[1.0] * len(predictions), aggregate_results={"one": 0.5})

    for _ in range(2):
        with mlflow.start_run() as run:
            metric = mlflow.models.make_metric(eval_fn=one, greater_is_better=True)
            evaluate(answered, predictions="answer", model_type=None, extra_metrics=[metric])
        assert mlflow.get_run(run.info.run_id).data.metrics["one"] == 0.5
    assert "file store" not in caplog.text


def test_figures_of_a_logged_model_are_logged_to_run_and_model(tiny_llama, questions, file_store):
    from mlflow_llm_plugins import quantized_llm

    info = quantized_llm.log_model(
        str(tiny_llama), name="chat", engine_config={"max_new_tokens": 4}, bundle_plugin=False
    )
    with mlflow.start_run() as run:
        evaluate(questions, info.model_uri, model_type=None, extra_metrics=["exact_match"])
    assert "exact_match/v1/mean" in mlflow.get_run(run.info.run_id).data.metrics
    assert "exact_match/v1/mean" in {metric.key for metric in mlflow.get_logged_model(info.model_id).metrics}


def test_what_a_logged_model_has_from_another_run_is_in_nobody_s_way(tiny_llama, questions, file_store):
    from mlflow_llm_plugins import quantized_llm

    info = quantized_llm.log_model(
        str(tiny_llama), name="chat", engine_config={"max_new_tokens": 4}, bundle_plugin=False
    )
    with mlflow.start_run():
        mlflow.log_metric("exact_match/v1", 0.25, model_id=info.model_id)
    with mlflow.start_run() as run:
        evaluate(questions, info.model_uri, model_type=None, extra_metrics=["exact_match"])
    logged = mlflow.get_run(run.info.run_id).data.metrics
    assert "exact_match/main" in logged
    assert "exact_match/v1/mean" not in logged


def test_logged_models_are_compared_by_the_figures_that_stand_for_them(tiny_llama, questions, file_store):
    from mlflow_llm_plugins import quantized_llm

    uris = [
        quantized_llm.log_model(
            str(tiny_llama), name=f"chat-{tokens}", engine_config={"max_new_tokens": tokens}, bundle_plugin=False
        ).model_uri
        for tokens in (4, 8)
    ]
    models = dict(zip(("short", "long"), uris, strict=True))
    comparison = compare_models(models, questions, targets="truth", metrics=["bleu"], evaluator_config=CONFIG)
    runs = [mlflow.get_run(run_id).data.metrics for run_id in comparison.table["run_id"]]
    assert list(comparison.table["bleu"]) == [run["bleu/main"] for run in runs]
    assert [run["bleu/main"] for run in runs] == [run["bleu/v1/corpus"] for run in runs]


def test_models_are_compared(questions, file_store):
    def right(frame):
        return [f"It is {i}." for i in frame["number"]]

    def wrong(frame):
        return ["x"] * len(frame)

    models = {"right": right, "wrong": wrong}
    comparison = compare_models(models, questions, targets="truth", metrics=["exact_match"], evaluator_config=CONFIG)
    assert list(comparison.table["exact_match"]) == [1.0, 0.0]
