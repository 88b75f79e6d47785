"""The evaluator as users call it: what comes out, what is logged, what is refused."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys

import mlflow
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.metrics import MetricValue
from mlflow.models import MetricThreshold
from mlflow.models.evaluation.validation import ModelValidationFailedException

SILENT = {"progress": False}


def evaluate(model=None, data=None, config=None, evaluators="llm", **arguments):
    return mlflow.models.evaluate(
        model=model, data=data, evaluators=evaluators, evaluator_config={**SILENT, **(config or {})}, **arguments
    )


def logged(result):
    run = mlflow.get_run(result.run_id)
    files = [file.path for file in mlflow.MlflowClient().list_artifacts(result.run_id)]
    return run, files


@pytest.fixture
def answered(questions):
    """Rows that were answered before, one of them not."""
    return questions.assign(answer=["It is 0.", "It is one.", None, "It is 3.", "Nothing at all."])


def test_static_predictions_get_the_metrics_of_their_type(answered, tracking):
    result = evaluate(data=answered, predictions="answer", targets="truth", model_type="question-answering")
    assert result.metrics["exact_match/v1/mean"] == result.metrics["exact_match"] == result.metrics["exact_match/v1"]
    assert result.metrics["exact_match"] == 0.5  # 2 of the 4 answers
    assert result.metrics["exact_match/v1/count"] == 4
    assert result.metrics["error_rate"] == 0.2
    assert {"ari_grade_level/v1/mean", "ari_grade_level/v1/variance", "ari_grade_level/v1/p90"} <= set(result.metrics)
    assert not [name for name in result.metrics if "latency" in name]


def test_everything_is_logged_to_the_run(answered, tracking):
    result = evaluate(data=answered, predictions="answer", targets="truth", model_type="question-answering")
    run, files = logged(result)
    assert run.data.metrics == pytest.approx(result.metrics)
    assert {"eval_results_table.json", "llm_scores.png", "llm_metrics.png", "llm_evaluation.json"} <= set(files)
    assert set(result.artifacts) == {"eval_results_table", "llm_scores", "llm_metrics", "llm_evaluation"}
    assert run.inputs.dataset_inputs


def test_the_table_has_a_row_for_each_input_with_scores_and_reasons(answered, tracking):
    result = evaluate(data=answered, predictions="answer", targets="truth", model_type="question-answering")
    table = result.tables["eval_results_table"]
    assert list(table["question"]) == list(answered["question"])
    assert list(table["exact_match/v1/score"].fillna(-1)) == [1, 0, -1, 1, 0]
    assert table["exact_match/v1/justification"][2] == "the prediction is missing"
    assert table["error"][2] == "the prediction is missing"
    assert list(table["truth"]) == list(answered["truth"])


def test_record_tells_how_scores_came_about(answered, tracking):
    result = evaluate(
        data=answered, predictions="answer", targets="truth", model_type=None, extra_metrics=["bleu", "gunning_fog"]
    )
    record = json.loads(json.dumps(result.artifacts["llm_evaluation"].content))
    assert record["source"] == {"source": "static"}
    assert record["metrics"]["gunning_fog/v1"]["metadata"]["lang"] == "en"
    assert record["versions"]["mlflow"] == mlflow.__version__


def test_thresholds_are_validated(answered, tracking):
    result = evaluate(data=answered, predictions="answer", targets="truth", model_type="question-answering")
    reached = {"exact_match/v1/mean": MetricThreshold(threshold=0.5, greater_is_better=True)}
    missed = {"exact_match": MetricThreshold(threshold=0.9, greater_is_better=True)}
    mlflow.validate_evaluation_results(candidate_result=result, validation_thresholds=reached)
    with pytest.raises(ModelValidationFailedException):
        mlflow.validate_evaluation_results(candidate_result=result, validation_thresholds=missed)


def test_model_of_the_flavor_is_measured_loaded_and_alone(chat_model, questions, tracking):
    result = evaluate(
        chat_model,
        questions,
        {"latency_sample_size": 2, "params": {"max_tokens": 4}},
        targets="truth",
        model_type="question-answering",
        extra_metrics=["latency", "time_to_first_token", "inter_token_latency", "tokens_per_second"],
    )
    metrics = result.metrics
    assert metrics["latency/v1/count"] == metrics["time_to_first_token/v1/count"] == 2
    assert 0 < metrics["time_to_first_token/v1/mean"] <= metrics["latency/v1/mean"]
    assert metrics["loaded_latency/count"] == metrics["rows"] == 5
    assert metrics["completion_tokens/mean"] <= 4
    assert metrics["throughput/output_tokens_per_second"] > 0
    assert metrics["peak_memory/rss_bytes"] > 1e6
    table = result.tables["eval_results_table"]
    assert table["latency/v1/score"].notna().sum() == 2
    assert table["completion_tokens"].between(1, 4).all()
    assert list(table["outputs"]) == chat_model.predict(list(questions["question"]), params={"max_tokens": 4})


def test_summaries_get_the_short_names_that_slides_ask_for(chat_model, tracking):
    articles = pd.DataFrame(
        {"article": ["A long story about loops.", "And one about lists."], "highlights": ["loops", "lists of it"]}
    )
    results = evaluate(chat_model, articles, targets="highlights", model_type="text-summarization")
    assert "rouge1" in results.metrics
    assert "perplexity" in results.metrics
    assert "eval_results_table" in results.artifacts
    assert results.metrics["perplexity"] == results.metrics["perplexity/v1"] > 1


def test_models_by_uri_log_their_metrics_to_the_model_once(tiny_llama, questions, tracking):
    from mlflow_llm_plugins import quantized_llm

    info = quantized_llm.log_model(
        str(tiny_llama), name="chat", engine_config={"max_new_tokens": 4}, bundle_plugin=False
    )
    result = evaluate(info.model_uri, questions, targets="truth", model_type="question-answering")
    history = mlflow.MlflowClient().get_metric_history(result.run_id, "exact_match")
    assert len(history) == 1
    model = mlflow.get_logged_model(info.model_id)
    assert "exact_match" in {metric.key for metric in model.metrics}


def test_conversations_are_asked_and_shown(chat_model, tracking):
    chats = pd.DataFrame(
        {
            "messages": [
                [{"role": "user", "content": "What is a loop?"}],
                [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is a list?"}],
            ]
        }
    )
    result = evaluate(chat_model, chats, model_type="chat")
    assert result.metrics["error_rate"] == 0
    table = result.tables["eval_results_table"]
    assert list(table["messages"]) == list(chats["messages"])
    assert all(isinstance(answer, str) for answer in table["outputs"])


def test_row_that_fails_leaves_the_others_alone(chat_model, tracking):
    rows = pd.DataFrame({"inputs": ["What is a loop?", "word " * 5000, None, 7, "What is a list?"]})
    result = evaluate(chat_model, rows, {"max_error_rate": 0.6}, model_type="text")
    table = result.tables["eval_results_table"]
    assert list(table["error"].isna()) == [True, False, False, False, True]
    assert "tokens" in table["error"][1]
    assert result.metrics["ari_grade_level/v1/count"] == 2
    assert result.metrics["error_rate"] == 0.6


def test_too_many_failures_are_an_error_once_they_are_logged(tracking):
    def answer(frame):
        if frame["inputs"].iloc[0] != "good":
            raise ValueError(f"secret: {frame['inputs'].iloc[0]}")
        return ["fine"]

    rows = pd.DataFrame({"inputs": ["good", "bad", "worse"]})
    with (
        mlflow.start_run() as run,
        pytest.raises(MlflowException, match=r"2 of 3 rows have no answer, more than max_error_rate=0\.5") as raised,
    ):
        evaluate(answer, rows, model_type="text")
    table = mlflow.load_table("eval_results_table.json", run_ids=[run.info.run_id])
    assert list(table["outputs"].fillna("-")) == ["fine", "-", "-"]
    assert "worse" not in str(raised.value) + "".join(table["error"].dropna())


@pytest.mark.parametrize(
    "outputs",
    [
        lambda frame: [f"answer {i}" for i in frame["number"]],
        lambda frame: pd.Series([f"answer {i}" for i in frame["number"]]),
        lambda frame: pd.DataFrame(
            {"answer": [f"answer {i}" for i in frame["number"]], "sources": ["book"] * len(frame)}
        ),
        lambda frame: [{"answer": f"answer {i}", "sources": "book"} for i in frame["number"]],
    ],
)
def test_functions_answer_in_the_shapes_that_stock_takes(outputs, questions, tracking):
    result = evaluate(outputs, questions[["question", "number"]], model_type="text", predictions="answer")
    table = result.tables["eval_results_table"]
    assert list(table["answer"]) == [f"answer {i}" for i in range(5)]


def test_columns_are_mapped_for_model_and_metrics(chat_model, questions, tracking):
    def same_question(predictions, inputs, about):
        return float(list(inputs) == list(questions["question"]) and list(about) == list(questions["number"]))

    result = evaluate(
        chat_model,
        questions.drop(columns="truth").assign(prompt="not this"),
        {"col_mapping": {"inputs": "question", "about": "number"}},
        model_type="text",
        extra_metrics=[mlflow.models.make_metric(eval_fn=same_question, greater_is_better=True)],
    )
    assert result.metrics["same_question"] == 1


def test_metrics_of_mlflow_get_the_answered_rows(answered, tracking):
    result = evaluate(
        data=answered,
        predictions="answer",
        targets="truth",
        model_type=None,
        extra_metrics=[mlflow.metrics.ari_grade_level()],
    )
    scores = list(result.tables["eval_results_table"]["ari_grade_level/v1/score"])
    assert [math.isnan(score) for score in scores] == [False, False, True, False, False]
    assert result.metrics["ari_grade_level/v1/mean"] == pytest.approx(sum(scores[:2] + scores[3:]) / 4)


def test_metric_that_fails_is_named_and_leaves_the_others_alone(answered, tracking):
    def broken(predictions):
        raise RuntimeError(predictions[0])

    result = evaluate(
        data=answered,
        predictions="answer",
        targets="truth",
        model_type="question-answering",
        extra_metrics=[mlflow.models.make_metric(eval_fn=broken, greater_is_better=True)],
    )
    assert result.metrics["exact_match"] == 0.5
    assert set(result.tables["eval_results_table"]["broken/justification"]) == {"it raised RuntimeError"}


def test_metric_may_need_another_one_that_is_named_behind_it(answered, tracking):
    def twice(predictions, exact_match):
        return 2 * exact_match.aggregate_results["mean"]

    metrics = [mlflow.models.make_metric(eval_fn=twice, greater_is_better=True), "exact_match"]
    result = evaluate(data=answered, predictions="answer", targets="truth", model_type=None, extra_metrics=metrics)
    assert result.metrics["twice"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"extra_metrics": ["rouge1"]}, r"Metric 'rouge1' needs 'targets': give targets=\.\.\."),
        ({"extra_metrics": ["perplexity"]}, "perplexity"),
        ({"data": pd.DataFrame({"answer": []}), "extra_metrics": ["word_count"]}, "no rows|empty"),
        ({"predictions": None, "extra_metrics": ["word_count"]}, "There is nothing to evaluate: give a model"),
    ],
)
def test_what_can_never_be_computed_is_refused_in_words(arguments, message, answered, tracking):
    call = {"data": answered.drop(columns="truth"), "predictions": "answer", "model_type": None, **arguments}
    with pytest.raises(MlflowException, match=message):
        evaluate(**call)


def test_predictions_that_are_all_missing_are_an_error(questions, tracking):
    with pytest.raises(MlflowException, match="5 of 5 rows have no answer"):
        evaluate(data=questions.assign(answer=None), predictions="answer", model_type="text")


def test_prefix_stands_before_metrics_and_files(answered, tracking):
    result = evaluate(
        data=answered, predictions="answer", model_type="text", config={"metric_prefix": "held_out_", "plots": False}
    )
    _, files = logged(result)
    assert all(name.startswith("held_out_") for name in result.metrics)
    assert "held_out_eval_results_table.json" in files


def test_figures_of_metrics_from_outside_say_over_how_many_rows_they_are(answered, tracking):
    def some(predictions):
        return MetricValue(scores=[1.0, 3.0, None, 5.0])

    def own(predictions):
        return MetricValue(scores=[1.0, 3.0, None, 5.0], aggregate_results={"best": 5.0})

    def counting(predictions):
        return MetricValue(scores=[1.0, 3.0, 4.0, 5.0], aggregate_results={"count": 7})

    made = [mlflow.models.make_metric(eval_fn=function, greater_is_better=True) for function in (some, own, counting)]
    metrics = evaluate(data=answered, predictions="answer", model_type=None, extra_metrics=made).metrics
    assert (metrics["some/mean"], metrics["some/count"]) == (3.0, 3)
    assert (metrics["own/best"], metrics["own/count"]) == (5.0, 3)
    assert metrics["counting/count"] == 7


def test_columns_of_one_name_are_refused_before_anything_is_asked(questions, tracking):
    asked = []
    rows = questions.rename(columns={"number": "question"})
    with pytest.raises(MlflowException, match=r"data has several columns 'question'; rename them\."):
        evaluate(lambda frame: asked.append(frame), rows, targets="truth", model_type="text")
    assert not asked


def test_targets_of_several_columns_are_refused(answered, tracking):
    rows = answered.rename(columns={"number": "truth"})
    with pytest.raises(MlflowException, match=r"data has several columns 'truth'; rename them\."):
        evaluate(data=rows, predictions="answer", targets="truth", model_type="question-answering")


def length(inputs):
    return MetricValue(scores=[float(len(text)) for text in inputs])


@pytest.fixture
def metric_of_inputs():
    return mlflow.models.make_metric(eval_fn=length, greater_is_better=True)


WRONG_COLUMN = (
    "Metric 'length' needs 'inputs'. There is no column 'qestion', which col_mapping names for it. "
    "Did you mean 'question'? There are: predictions,"
)


def test_a_wrong_column_of_the_mapping_is_refused_with_the_nearest(answered, metric_of_inputs, tracking):
    with pytest.raises(MlflowException, match=re.escape(WRONG_COLUMN)):
        evaluate(
            data=answered,
            predictions="answer",
            config={"col_mapping": {"inputs": "qestion"}},
            model_type=None,
            extra_metrics=[metric_of_inputs],
        )


def test_a_wrong_column_of_the_mapping_is_warned_of_where_the_model_might_give_it(
    questions, metric_of_inputs, tracking, caplog
):
    result = evaluate(
        lambda frame: ["fine"] * len(frame),
        questions,
        {"col_mapping": {"inputs": "qestion"}},
        model_type=None,
        extra_metrics=[metric_of_inputs],
    )
    assert WRONG_COLUMN in caplog.text
    assert "length/mean" not in result.metrics


@pytest.mark.parametrize("evaluators", [["llm", "default"], ["default", "llm"]])
def test_latency_is_measured_beside_the_default_evaluator_too(evaluators, questions, tracking):
    asked = [mlflow.metrics.latency(), mlflow.metrics.exact_match()]
    given = list(asked)
    result = mlflow.models.evaluate(
        lambda frame: ["It is 0."] * len(frame),
        questions,
        targets="truth",
        model_type=None,
        extra_metrics=given,
        evaluators=evaluators,
        evaluator_config={"llm": {**SILENT, "plots": False}},
    )
    assert result.metrics["latency/v1/count"] == 5
    assert given == asked


@pytest.mark.parametrize("evaluators", [["llm", "default"], ["default", "llm"]])
def test_beside_the_default_evaluator_each_has_a_table_of_its_own(evaluators, answered, tracking):
    answered = answered.fillna("It is 2.")
    with mlflow.start_run() as run:
        result = mlflow.models.evaluate(
            data=answered,
            predictions="answer",
            targets="truth",
            model_type=None,
            extra_metrics=[mlflow.metrics.ari_grade_level()],
            evaluators=evaluators,
            evaluator_config={"llm": {"metrics": ["word_count"], **SILENT}, "default": {}},
        )
    stock = mlflow.load_table("eval_results_table.json", run_ids=[run.info.run_id])
    own = mlflow.load_table("llm_eval_results_table.json", run_ids=[run.info.run_id])
    assert len(stock) == len(own) == 5
    assert "word_count/v1/score" in own
    assert "word_count/v1/score" not in stock
    assert {"eval_results_table", "llm_eval_results_table"} <= set(result.artifacts)


def test_default_evaluator_that_comes_later_in_the_run_finds_the_short_name_free(answered, tracking):
    answered = answered.fillna("It is 2.")
    call = {"data": answered, "predictions": "answer", "model_type": None}
    with mlflow.start_run() as run:
        evaluate(**call, extra_metrics=["word_count"])
        evaluate(**call, extra_metrics=["sentence_count"])
        mlflow.models.evaluate(**call, evaluators="default", extra_metrics=[mlflow.metrics.ari_grade_level()])
    tables = {
        file.path: mlflow.load_table(file.path, run_ids=[run.info.run_id])
        for file in mlflow.MlflowClient().list_artifacts(run.info.run_id)
        if "results_table" in file.path
    }
    assert {name: len(table) for name, table in tables.items()} == {
        "eval_results_table.json": 5,
        "llm_eval_results_table.json": 5,
        "llm_eval_results_table_2.json": 5,
    }
    assert "ari_grade_level/v1/score" in tables["eval_results_table.json"]


def test_columns_of_the_data_do_not_pass_for_what_was_measured(questions, tracking):
    rows = questions[["question"]].assign(latencies=9.0, engine="mine")
    result = evaluate(
        lambda frame: ["fine"] * len(frame),
        rows,
        {"col_mapping": {"inputs": "question"}},
        model_type=None,
        extra_metrics=["latency"],
    )
    assert result.metrics["latency/v1/mean"] < 1


def test_metrics_from_outside_are_called_as_mlflow_calls_them(answered, tracking):
    def by_position(predictions, targets, /):
        return 1.0

    def by_keys(predictions, metrics):
        return metrics["exact_match/v1"].aggregate_results["mean"]

    def oldest(eval_df, builtin_metrics):
        return builtin_metrics["exact_match/v1/mean"] + len(eval_df)

    functions = [by_position, by_keys, oldest]
    made = [mlflow.models.make_metric(eval_fn=function, greater_is_better=True) for function in functions]
    result = evaluate(
        data=answered, predictions="answer", targets="truth", model_type=None, extra_metrics=["exact_match", *made]
    )
    assert [result.metrics[function.__name__] for function in functions] == [1.0, 0.5, 4.5]


def test_integer_labels_stay_integers_for_metrics_of_scikit_learn(tracking):
    rows = pd.DataFrame({"truth": [1, 0, 1, 1], "answer": [1, 0, 0, 1]})
    arguments = {"data": rows, "predictions": "answer", "targets": "truth", "model_type": None}
    ours = evaluate(**arguments, extra_metrics=[mlflow.metrics.f1_score()])
    stock = mlflow.models.evaluate(**arguments, extra_metrics=[mlflow.metrics.f1_score()], evaluators="default")
    assert ours.metrics["f1_score"] == stock.metrics["f1_score"]


def test_metric_may_need_another_column_of_the_model(questions, tracking):
    def cited(predictions, sources):
        return float(sum(source == "book" for source in sources))

    result = evaluate(
        lambda frame: pd.DataFrame({"answer": ["a"] * len(frame), "sources": ["book"] * len(frame)}),
        questions[["question"]],
        model_type=None,
        predictions="answer",
        extra_metrics=[mlflow.models.make_metric(eval_fn=cited, greater_is_better=True)],
    )
    assert result.metrics["cited"] == 5


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (["What?", "Why?"], None),
        ([["What?"], ["Why?"]], ["question"]),
        (pd.DataFrame({0: ["What?", "Why?"]}), None),
    ],
)
def test_data_of_any_form_reach_a_function_as_mlflow_hands_them_over(data, names, tracking):
    def seen_by(evaluators, **arguments):
        seen = []

        def answer(frame):
            seen.extend(frame.to_dict("records"))
            return ["fine"] * len(frame)

        mlflow.models.evaluate(answer, data, feature_names=names, evaluators=evaluators, **arguments)
        return seen

    stock = seen_by("default", model_type=None, extra_metrics=[mlflow.metrics.ari_grade_level()])
    assert seen_by("llm", model_type="text", evaluator_config={"max_workers": 1}) == stock


def test_figures_of_a_failed_evaluation_are_logged_to_run_and_model(tiny_llama, tracking):
    from mlflow_llm_plugins import quantized_llm

    info = quantized_llm.log_model(str(tiny_llama), name="chat", bundle_plugin=False)
    too_long = pd.DataFrame({"inputs": ["word " * 5000, "word " * 6000]})
    with mlflow.start_run() as run, pytest.raises(MlflowException, match="2 of 2 rows have no answer"):
        evaluate(info.model_uri, too_long, model_type="text")
    assert mlflow.get_run(run.info.run_id).data.metrics["error_rate"] == 1
    assert "error_rate" in {metric.key for metric in mlflow.get_logged_model(info.model_id).metrics}


def test_error_of_the_whole_does_not_repeat_a_row(chat_model, tracking):
    rows = pd.DataFrame({"messages": [[{"role": "SECRETROLE", "content": "hi"}]]})
    with pytest.raises(MlflowException, match="1 of 1 rows have no answer") as raised:
        evaluate(chat_model, rows, model_type="chat")
    assert "SECRETROLE" not in str(raised.value)


@pytest.mark.parametrize("name", ["error_rate", "loaded_latency", "prompt_tokens", "throughput", "peak_memory"])
def test_no_metric_may_take_the_name_of_a_figure(name, answered, tracking):
    metric = mlflow.models.make_metric(eval_fn=lambda predictions: 1.0, greater_is_better=True, name=name)
    with pytest.raises(MlflowException, match=f"No metric may be called '{name}'"):
        evaluate(data=answered, predictions="answer", model_type=None, extra_metrics=[metric])


def test_default_evaluator_of_another_process_finds_the_short_name_free(answered, tracking, tmp_path):
    answered = answered.fillna("It is 2.")
    with mlflow.start_run() as run:
        evaluate(data=answered, predictions="answer", model_type=None, extra_metrics=["word_count"])
    code = f"""
import mlflow, pandas
with mlflow.start_run(run_id={run.info.run_id!r}):
    mlflow.models.evaluate(data=pandas.DataFrame({{"a": ["x", "y"]}}), predictions="a", model_type=None,
                           evaluators="default", extra_metrics=[mlflow.metrics.ari_grade_level()])
"""
    environment = {**os.environ, "MLFLOW_TRACKING_URI": tracking}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, timeout=120)
    rows = {
        name: len(mlflow.load_table(name, run_ids=[run.info.run_id]))
        for name in ("eval_results_table.json", "llm_eval_results_table.json")
    }
    assert rows == {"eval_results_table.json": 2, "llm_eval_results_table.json": 5}


def test_warnings_are_seen_where_mlflow_hides_those_of_the_whole_process(tracking, tmp_path):
    code = """
import torch, mlflow, pandas
from mlflow.models import make_metric

def broken(predictions):
    raise RuntimeError

mlflow.models.evaluate(
    data=pandas.DataFrame({"a": ["x"]}), predictions="a", model_type="text", evaluators="llm",
    extra_metrics=[make_metric(eval_fn=broken, greater_is_better=True)],
)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Metric 'broken' has no value: it raised RuntimeError" in done.stderr
