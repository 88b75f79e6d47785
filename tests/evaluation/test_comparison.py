from __future__ import annotations

import json
import math
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

from mlflow_llm_plugins import quantized_llm
from mlflow_llm_plugins.evaluation import Variant, compare_models

WORDS = ["red", "green", "blue", "black", "white"]
QUICK = {"n_resamples": 200, "evaluator_config": {"plots": False, "progress": False}}
PLAIN = {**QUICK, "model_type": "question-answering", "metrics": ["exact_match"]}


@pytest.fixture
def data() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    targets = [str(rng.choice(WORDS)) for _ in range(60)]
    return pd.DataFrame({"question": [f"row {i}" for i in range(60)], "answer": targets})


class Lookup:
    """Answers the rows in `right` as in the data, and others wrong."""

    def __init__(self, data: pd.DataFrame, right: set[int]) -> None:
        self.answers = dict(zip(data["question"], data["answer"], strict=True))
        self.right = right

    def __call__(self, frame: pd.DataFrame) -> list[str]:
        return [self.answers[q] if int(q.split()[1]) in self.right else "nothing" for q in frame["question"]]


class Canned:
    """Answers with a setting of its own, and leaves a line in a file where it is closed."""

    def __init__(self, answer: str, closed_file: str) -> None:
        self.answer, self.closed_file = answer, closed_file

    def get_raw_model(self) -> Canned:
        return self

    def predict(self, data: pd.DataFrame, params: dict | None = None) -> list[str]:
        if self.answer == "fail":
            raise RuntimeError("no")
        answer = self.answer if params is None else self.answer.format(**params)
        return [answer] * len(data)

    def close(self) -> None:
        with open(self.closed_file, "a") as file:
            file.write(f"{self.answer} ")


def _load_pyfunc(path: str, model_config: dict) -> Canned:
    return Canned(**model_config)


@pytest.fixture
def canned(tmp_path: Path) -> str:
    config = {"answer": "red", "closed_file": str(tmp_path / "closed")}
    path = str(tmp_path / "canned")
    schema = mlflow.models.infer_signature(["a"], None, {"a": "x", "b": "x"})
    signature = mlflow.models.ModelSignature(params=schema.params)
    mlflow.pyfunc.save_model(
        path, loader_module=__name__, model_config=config, signature=signature, pip_requirements=[]
    )
    return path


def failure(*args, **kwargs) -> str:
    with pytest.raises(MlflowException) as error:
        compare_models(*args, **kwargs)
    return str(error.value)


def files(run_id: str) -> set[str]:
    return {file.path for file in mlflow.MlflowClient().list_artifacts(run_id)}


def test_known_answers_give_known_figures_and_logged_tables(tracking: str, data: pd.DataFrame):
    half, more = Lookup(data, set(range(0, 60, 2))), Lookup(data, set(range(45)))
    compared = compare_models({"half": half, "more": more}, data, targets="answer", **PLAIN)
    table = compared.table.set_index("variant")
    assert list(table["exact_match"]) == [0.5, 0.75]
    line = compared.differences[compared.differences["metric"] == "exact_match"].iloc[0]
    assert (line["estimate"], line["n"], line["dropped"]) == (0.25, 60, 0)
    assert (line["wins"], line["ties"], line["losses"]) == (22, 31, 7)  # odd rows below 45; even rows above
    assert (line["verdict"], line["baseline"]) == ("better", "half")
    assert 0 < line["low"] < 0.25 < line["high"] < 0.5

    logged = mlflow.load_table("comparison.json", run_ids=[compared.run_id]).set_index("variant")
    assert list(logged["exact_match"]) == [0.5, 0.75]
    assert "comparison_differences.json" in files(compared.run_id)
    client = mlflow.MlflowClient()
    assert client.get_run(compared.run_id).info.status == "FINISHED"
    tag = json.loads(client.get_run(compared.run_id).data.tags["llm.comparison"])
    assert tag == {"baseline": "half", "variants": ["half", "more"]}
    for name, value in (("half", 0.5), ("more", 0.75)):
        run = client.get_run(compared.run_ids[name])
        assert run.info.run_name == name
        assert run.data.tags["mlflow.parentRunId"] == compared.run_id
        assert run.data.metrics["exact_match/v1/mean"] == value
        assert run.data.params["variant"] == name
        assert "eval_results_table.json" in files(run.info.run_id)


def test_latencies_belong_to_a_comparison_unless_metrics_are_named(tracking: str, data: pd.DataFrame):
    models = {"a": Lookup(data, {1}), "b": Lookup(data, {2})}
    whole = compare_models(models, data, targets="answer", model_type="question-answering", **QUICK)
    assert (whole.table["latency"] > 0).all()
    line = whole.differences[whole.differences["metric"] == "latency"].iloc[0]
    assert (line["n"], line["dropped"]) == (16, 44)  # the same sample on both sides
    named = compare_models(models, data, targets="answer", **PLAIN)
    assert "latency" not in named.table
    assert "loaded_latency/mean" in named.table


def test_the_active_run_is_the_parent_and_names_are_numbered(tracking: str, data: pd.DataFrame):
    with mlflow.start_run() as run:
        first = compare_models({"a": Lookup(data, {1})}, data, targets="answer", **PLAIN)
        second = compare_models({"a": Lookup(data, {1})}, data, targets="answer", **PLAIN)
        assert mlflow.active_run().info.run_id == run.info.run_id
        inner = compare_models({"a": Lookup(data, {1})}, data, targets="answer", run_name="inner", **PLAIN)
    assert first.run_id == second.run_id == run.info.run_id
    assert (first.artifacts["comparison"], second.artifacts["comparison"]) == ("comparison.json", "comparison_2.json")
    nested = mlflow.MlflowClient().get_run(inner.run_id)
    assert (nested.info.run_name, nested.data.tags["mlflow.parentRunId"]) == ("inner", run.info.run_id)


def test_one_model_has_scores_and_no_differences(tracking: str, data: pd.DataFrame):
    alone = compare_models({"only": Lookup(data, {1, 2, 3})}, data, targets="answer", **PLAIN)
    assert len(alone.differences) == 0
    assert "comparison_differences" not in alone.artifacts
    assert alone.scores.iloc[0]["value"] == pytest.approx(3 / 60)


def test_prompts_and_finished_predictions_are_variants_too(tracking: str, data: pd.DataFrame):
    def repeat(frame: pd.DataFrame) -> list[str]:
        return list(frame["question"])

    data["finished"] = data["answer"]
    models = {
        "copy": Variant(model=repeat, prompt_template="{question}"),
        "colour": {"model": repeat, "prompt_template": "red"},
        "done": {"predictions": "finished"},
    }
    compared = compare_models(models, data, targets="answer", **PLAIN)
    table = compared.table.set_index("variant")
    assert list(table["exact_match"]) == [0, pytest.approx((data["answer"] == "red").mean()), 1]
    assert table.loc["colour", "prompt_template"] == "red"
    rows = mlflow.load_table("eval_results_table.json", run_ids=[compared.run_ids["colour"]])
    assert set(rows["question"]) == {"red"}


def test_models_by_uri_are_loaded_with_their_settings_and_closed(
    tracking: str, data: pd.DataFrame, canned: str, tmp_path: Path
):
    models = {"red": canned, "blue": {"model": canned, "model_config": {"answer": "blue"}}}
    compared = compare_models(models, data, targets="answer", **PLAIN)
    for name in models:
        expected = (data["answer"] == name).mean()
        assert compared.table.set_index("variant").loc[name, "exact_match"] == pytest.approx(expected)
    assert (tmp_path / "closed").read_text() == "red blue "
    assert "memory_growth/rss_bytes" in compared.table
    blue = mlflow.MlflowClient().get_run(compared.run_ids["blue"])
    assert blue.data.params["model_config"] == '{"answer": "blue"}'
    assert "memory_growth/rss_bytes" in blue.data.metrics


def test_a_setting_that_the_artifact_does_not_know_is_refused_before_anything_is_loaded(
    tracking: str, data: pd.DataFrame, canned: str, tmp_path: Path
):
    models = {"red": canned, "blue": {"model": canned, "model_config": {"anwser": "blue"}}}
    message = failure(models, data, targets="answer", **PLAIN)
    assert message == (
        "models['blue']: model_config: the artifact has no key 'anwser', so MLflow would ignore it. Did you mean "
        "'answer'? There are: answer, closed_file."
    )
    assert mlflow.search_runs().empty
    assert not (tmp_path / "closed").exists()


def test_a_language_model_is_checked_by_its_artifact_before_it_is_loaded(
    tracking: str, chat_artifact: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(mlflow.pyfunc, "load_model", lambda *a, **k: pytest.fail("loaded"))
    rows = pd.DataFrame({"a": ["x"], "b": ["y"], "answer": ["z"]})
    message = failure({"chat": str(chat_artifact)}, rows, targets="answer", **PLAIN)
    assert message.startswith("models['chat']: Which column is the model asked with? There are: 'a', 'b'.")
    wrong = {"chat": {"model": str(chat_artifact), "model_config": {"quantizaton": "int8"}}}
    assert "no key 'quantizaton', so MLflow would ignore it. Did you mean 'quantization'?" in failure(
        wrong, rows.rename(columns={"a": "question"}), targets="answer", **PLAIN
    )


def test_the_column_of_groups_is_no_second_question(tracking: str, data: pd.DataFrame):
    seen = []
    models = {
        "asks": lambda frame: seen.append(list(frame.columns)) or ["x"] * len(frame),
        "done": {"predictions": "old"},
    }
    rows = data.head(2).assign(old="red", dataset="alpaca")
    compared = compare_models(models, rows, targets="answer", group_by="dataset", **PLAIN)
    assert set(map(tuple, seen)) == {("question",)}
    assert set(compared.scores["group"]) == {"alpaca"}


def test_the_memory_of_loaded_weights_is_told(tracking: str, questions: pd.DataFrame, chat_model):
    config = {**QUICK["evaluator_config"], "params": {"max_tokens": 2}}
    given = {"models": {"chat": chat_model}, "data": questions[["question", "truth"]], "targets": "truth"}
    compared = compare_models(**given, **{**PLAIN, "evaluator_config": config})
    stats = chat_model.get_raw_model().stats()
    assert compared.table.iloc[0]["model/loaded_weight_bytes"] == stats.weight_bytes > 0


def test_a_variant_that_fails_is_closed_and_recorded_and_the_others_go_on(
    tracking: str, data: pd.DataFrame, canned: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    models = {
        "fails": {"model": canned, "model_config": {"answer": "fail"}},
        "missing": str(tmp_path / "nowhere"),
        "works": Lookup(data, {1}),
    }
    compared = compare_models(models, data, targets="answer", baseline="works", **PLAIN)
    table = compared.table.set_index("variant")
    assert "60 of 60 rows have no answer" in table.loc["fails", "error"]
    assert "nowhere" in table.loc["missing", "error"]
    assert table.loc["works", "exact_match"] == pytest.approx(1 / 60)
    assert (tmp_path / "closed").read_text() == "fail "
    statuses = [mlflow.MlflowClient().get_run(run_id).info.status for run_id in compared.run_ids.values()]
    assert statuses == ["FAILED", "FAILED", "FINISHED"]
    assert len(compare_models(models, data, targets="answer", **PLAIN).differences) == 0
    assert "The baseline 'fails' has no result, so there are no differences." in caplog.text


def test_all_variants_failing_is_an_error_with_the_first_reason(tracking: str, data: pd.DataFrame, tmp_path: Path):
    with mlflow.start_run() as run:
        message = failure({"a": str(tmp_path / "x"), "b": str(tmp_path / "y")}, data, targets="answer", **PLAIN)
    assert message.startswith("No variant has a result; 'a', for example: ")  # then MLflow's own words
    assert "comparison.json" in files(run.info.run_id)


def test_parameters_of_a_variant_go_over_those_of_all(tracking: str, data: pd.DataFrame, canned: str):
    frame = data[["question"]].head(3).assign(target=["12", "12", "32"])
    load = {"model": canned, "model_config": {"answer": "{a}{b}"}}
    models = {"one": load, "two": {**load, "params": {"a": "3"}}}
    config = {**QUICK["evaluator_config"], "params": {"a": "1", "b": "2"}}
    compared = compare_models(models, frame, targets="target", **{**PLAIN, "evaluator_config": config})
    assert list(compared.table["exact_match"]) == pytest.approx([2 / 3, 1 / 3])


def test_bars_and_scores_by_a_column_and_plots_are_logged(tracking: str, data: pd.DataFrame):
    data["dataset"] = ["alpaca", "mbpp"] * 30
    right = {i for i in range(60) if i % 2 == 0}
    models = {"llama": Lookup(data, right), "mistral": Lookup(data, set(range(60)))}
    compared = compare_models(
        models, data, targets="answer", metrics=["exact_match"], group_by="dataset", n_resamples=200
    )
    scores = compared.scores[compared.scores["metric"] == "exact_match"]
    values = {(line["variant"], line["group"]): line["value"] for line in scores.to_dict("records")}
    assert values == {
        ("llama", "alpaca"): 1,
        ("llama", "mbpp"): 0,
        ("mistral", "alpaca"): 1,
        ("mistral", "mbpp"): 1,
    }
    plots = {f"comparison_{name}.png" for name in ("metrics", "differences", "pareto")}
    assert plots <= files(compared.run_id)
    assert plots <= set(compared.artifacts.values())


def test_a_metric_prefix_changes_keys_of_runs_only(tracking: str, data: pd.DataFrame):
    config = {**QUICK["evaluator_config"], "metric_prefix": "held_out_"}
    models = {"a": Lookup(data, {1}), "b": Lookup(data, {1, 2})}
    compared = compare_models(models, data, targets="answer", **{**PLAIN, "evaluator_config": config})
    assert list(compared.table["exact_match"]) == pytest.approx([1 / 60, 2 / 60])
    assert "held_out_exact_match" in mlflow.MlflowClient().get_run(compared.run_ids["a"]).data.metrics


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": "hlaf"}, "baseline: there is no variant 'hlaf'. Did you mean 'half'? There are: half, more."),
        ({"quality": "exact_mach"}, "quality: there is no metric 'exact_mach' in this comparison. Did you mean"),
        ({"metrics": ["rogue1"]}, "Unknown metric 'rogue1'. Did you mean 'rouge1'?"),
        ({"model_type": "question-answring"}, "Did you mean 'question-answering'?"),
        ({"evaluator_config": {"progres": 1}}, "unknown key 'progres'. Did you mean 'progress'?"),
        ({"evaluator_config": {"metrics": ["bleu"]}}, "metrics are given twice"),
        ({"confidence_level": 1.5}, "confidence_level must be between 0 and 1"),
        ({"targets": "anser"}, "targets: there is no column 'anser'. Did you mean 'answer'?"),
        ({"group_by": "set"}, "group_by: there is no column 'set'."),
        ({"models": {"x": {"model": "models:/a/1", "prompt_template": "{qestion}"}}}, "Did you mean 'question'?"),
        ({"targets": None}, "models['half']: Metric 'exact_match' needs 'targets': give targets=..., the name of"),
        ({"extra_metrics": ["exact_match"]}, "models['half']: Two metrics would have the same keys 'exact_match/v1'"),
        ({"metrics": ["word_count"], "quality": "word_count"}, "quality: 'word_count' has no better side."),
        ({"metrics": ["answer_similarity"]}, "answer_similarity has no judge, so each variant would judge its own"),
        (
            {"models": {"x": {"predictions": "question"}}, "metrics": ["faithfulness"], "judge": "f"},
            "models['x']: Metric 'faithfulness' needs 'context', 'inputs': map it to a column by",
        ),
        ({"models": {"x": "endpoints:/chat"}, "more": 2}, "models['x']: Which column is the model asked with? There"),
        ({"data": None}, "data must be a DataFrame"),
    ],
)
def test_mistakes_are_named_before_anything_runs(
    tracking: str, data: pd.DataFrame, changes: dict, message: str, monkeypatch: pytest.MonkeyPatch
):
    models = {"half": Lookup(data, {1}), "more": Lookup(data, {2})}
    monkeypatch.delenv("MLFLOW_LLM_JUDGE", raising=False)
    if "judge" in changes:
        monkeypatch.setenv("MLFLOW_LLM_JUDGE", "http://localhost:1/v1")
    if "more" in changes:
        data = data.rename(columns={"question": "a"}).assign(b="c")
    arguments = {"models": models, "data": data, "targets": "answer", **PLAIN, **changes}
    arguments = {name: value for name, value in arguments.items() if name not in ("judge", "more")}
    assert message in failure(arguments.pop("models"), arguments.pop("data"), **arguments)
    assert mlflow.search_runs().empty


@pytest.mark.slow
def test_two_quantizations_of_one_model_are_compared_and_closed(
    tracking: str, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    load, loaded = mlflow.pyfunc.load_model, []
    monkeypatch.setattr(mlflow.pyfunc, "load_model", lambda *a, **k: loaded.append(load(*a, **k)) or loaded[-1])
    path = str(tmp_path / "llama")
    quantized_llm.save_model(str(tiny_llama), path, task="llm/v1/completions")
    texts = ["Loops repeat statements.", "A list keeps values in order.", "Python has functions.", "Water boils."]
    data = pd.DataFrame({"prompt": [text[:8] for text in texts], "target": texts})
    models = {"as it is": path, "nf4": {"model": path, "model_config": {"quantization": "nf4"}}}
    compared = compare_models(
        models,
        data,
        targets="target",
        extra_metrics=["perplexity"],
        evaluator_config={"params": {"max_tokens": 5, "temperature": 0}, "progress": False},
        n_resamples=200,
    )
    assert [model.get_raw_model().stats().state for model in loaded] == ["closed", "closed"]
    table = compared.table.set_index("variant")
    assert table["error"].isna().all()
    assert (table[["latency", "time_to_first_token", "perplexity", "model/weight_bytes"]].astype(float) > 0).all(None)
    line = compared.differences.set_index("metric").loc["perplexity"]
    assert line["kind"] == "ratio of perplexities"
    assert line["estimate"] == pytest.approx(table.loc["nf4", "perplexity"] / table.loc["as it is", "perplexity"])
    assert line["estimate"] != 1
    assert line["note"].startswith("indicative: fewer than 50 rows")
    assert table.loc["nf4", "model/loaded_weight_bytes"] < table.loc["as it is", "model/loaded_weight_bytes"]
    assert math.isfinite(line["low"])
    assert "comparison_pareto.png" in files(compared.run_id)
