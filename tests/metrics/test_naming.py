"""From what users write to metrics, and packages that are missing."""

from __future__ import annotations

import inspect
import sys

import mlflow
import pandas as pd
import pytest
from mlflow.metrics import make_metric

from mlflow_llm_plugins import metrics
from mlflow_llm_plugins.errors import InvalidInputError, MissingDependencyError
from mlflow_llm_plugins.metrics import METRICS
from mlflow_llm_plugins.metrics.form.json_text import is_valid_json
from mlflow_llm_plugins.metrics.form.pattern import contains, matches_regex
from mlflow_llm_plugins.metrics.form.python_code import python_syntax_ok
from mlflow_llm_plugins.metrics.form.refusal import is_refusal
from mlflow_llm_plugins.metrics.form.repetition import repetition_rate
from mlflow_llm_plugins.metrics.metric import LLMMetric, row_scores
from mlflow_llm_plugins.metrics.naming import metric_of, metrics_of
from mlflow_llm_plugins.metrics.packages import require
from mlflow_llm_plugins.metrics.timing import latency

INSTALL = "pip install 'mlflow-llm-plugins[evaluation]'"
FORM = "mlflow_llm_plugins.metrics.form"
ROWS = {
    "is_valid_json": f"{FORM}.json_text:is_valid_json",
    "contains": f"{FORM}.pattern:contains",
    "latency": "mlflow_llm_plugins.metrics.timing:latency",
}
ready_made = LLMMetric(lambda predictions: row_scores([1.0]), "ready_made", greater_is_better=True)
not_a_metric = 7


def makes_text():
    return "a text"


def fails():
    raise RuntimeError("no licence on this machine")


def needs_a_package():
    raise MissingDependencyError(f"needs gold: {INSTALL}")


def with_options(*names, lang="en", **more):
    return LLMMetric(lambda predictions: row_scores([1.0]), f"with_{lang}", greater_is_better=True)


@pytest.fixture(autouse=True)
def rows(monkeypatch):
    for name, path in ROWS.items():
        monkeypatch.setitem(METRICS, name, path)


def test_a_metric_is_taken_as_it_is_also_one_of_mlflow():
    stock = make_metric(eval_fn=lambda predictions: 1.0, greater_is_better=True, name="mine")
    for metric in (stock, ready_made):
        assert metric_of(metric) is metric


@pytest.mark.parametrize("spec", ["is_valid_json", is_valid_json, f"{FORM}.json_text:is_valid_json"])
def test_a_name_a_path_and_the_function_itself_all_make_the_metric(spec):
    metric = metric_of(spec)
    assert metric.name == "is_valid_json"
    assert metric(["[]", "["]).scores == [1.0, 0.0]


def test_a_path_may_lead_to_a_metric_or_to_a_function_of_optional_arguments():
    assert metric_of(f"{__name__}:ready_made") is sys.modules[__name__].ready_made
    assert metric_of(f"{__name__}:with_options").name == "with_en"
    assert metric_of("mlflow.metrics:mae").name == "mean_absolute_error"


@pytest.mark.parametrize("spec", ["contains", contains, f"{FORM}.pattern:contains"])
def test_a_metric_that_needs_arguments_says_which(spec):
    with pytest.raises(InvalidInputError) as error:
        metric_of(spec)
    shown = spec if isinstance(spec, str) else "contains"
    assert str(error.value) == f"Metric {shown!r} needs arguments: give contains(texts=...) instead of its name."


def test_an_unknown_name_is_refused_with_the_nearest_and_the_other_ways():
    with pytest.raises(InvalidInputError) as error:
        metric_of("is_vaild_json")
    assert str(error.value) == (
        f"Unknown metric 'is_vaild_json'. Did you mean 'is_valid_json'? Known: {', '.join(sorted(METRICS))}; or "
        "'evaluate:NAME' for one of Hugging Face's evaluate, or 'package.module:factory' for one of your own."
    )


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (7, "A metric must be given as a metric, its name, 'evaluate:NAME', 'package.module:factory' or the function "
            "that makes it; got 7."),
        (None, "A metric must be given as a metric, its name, 'evaluate:NAME', 'package.module:factory' or the "
               "function that makes it; got None."),
        (f"{__name__}:nothing", f"metric '{__name__}:nothing' cannot be loaded: module '{__name__}' has no attribute "
                                "'nothing'"),
        (f"{__name__}:not_a_metric", f"'{__name__}:not_a_metric' is of type int, neither a metric nor what makes "
                                     "one."),
        (":x", "metric ':x' cannot be loaded: it must be written 'package.module:Name'."),
        (".naming:x", "metric '.naming:x' cannot be loaded: it must be written 'package.module:Name'."),
        ("a b:", "metric 'a b:' cannot be loaded: it must be written 'package.module:Name'."),
        (f"{__name__}:fails", f"Metric '{__name__}:fails' cannot be made: no licence on this machine"),
        (makes_text, "'makes_text' must make a metric, an EvaluationMetric, but made str."),
    ],
)  # fmt: skip
def test_what_makes_no_metric_is_refused_in_words(spec, message):
    with pytest.raises(InvalidInputError) as error:
        metric_of(spec)
    assert str(error.value) == message


def test_a_missing_package_keeps_its_own_error():
    with pytest.raises(MissingDependencyError, match=r"^needs gold"):
        metric_of(needs_a_package)


def test_a_metric_of_evaluate_is_asked_for_by_its_name(monkeypatch):
    asked = []
    module = type(sys)("mlflow_llm_plugins.metrics.reference.hub_metric")
    module.evaluate_metric = lambda name: asked.append(name) or ready_made
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert metric_of("evaluate:./my:metric.py") is ready_made
    assert asked == ["./my:metric.py"]


def test_metrics_keep_their_order_and_may_be_none_at_all():
    assert metrics_of(None) == metrics_of([]) == []
    assert [metric.name for metric in metrics_of(("latency", ready_made, is_valid_json))] == [
        "latency",
        "ready_made",
        "is_valid_json",
    ]


@pytest.mark.parametrize("specs", ["latency", ready_made, {"latency": 1}, 7])
def test_what_is_no_list_of_metrics_is_refused(specs):
    with pytest.raises(
        InvalidInputError, match=r"^extra_metrics must be a list of metrics, got .*\. Put it in brackets\.$"
    ):
        metrics_of(specs)


def test_two_metrics_with_the_same_keys_are_refused_and_both_named():
    with pytest.raises(InvalidInputError) as error:
        metrics_of(["is_valid_json", "latency", is_valid_json({"type": "object"})])
    assert str(error.value) == (
        "Two metrics would have the same keys 'is_valid_json/v1': number 1 ('is_valid_json') and number 3 (LLMMetric "
        "is_valid_json). Leave one out, or give it another name: name=..."
    )


def test_two_metrics_of_a_kind_may_differ_in_name_or_version():
    second = LLMMetric(lambda predictions: row_scores([1.0]), "ready_made", greater_is_better=True, version="v2")
    several = [is_valid_json(), is_valid_json({"type": "object"}, name="is_person"), ready_made, second]
    assert metrics_of(several) == several


NEEDED = {"contains": {"texts": "a"}, "matches_regex": {"pattern": "a"}, "evaluate_metric": {"script": "wer"},
          "llm_judge": {"criteria": "It is short."}, "divergence": {"model": "a", "baseline": "b"}}  # fmt: skip
TIMES = ("inter_token_latency", "latency", "time_per_output_token", "time_to_first_token", "tokens_per_second")
ALONE = (*TIMES, "llm_judge")  # without options; and the one whose name is needed


@pytest.mark.parametrize("kind", sorted(set(METRICS) - set(ALONE)))
def test_a_second_metric_of_every_kind_that_has_options_can_be_told_from_the_first_by_its_name(kind, monkeypatch):
    make = getattr(metrics, kind)
    needed = {key: value for key, value in NEEDED.get(kind, {}).items() if key in inspect.signature(make).parameters}
    with pytest.raises(InvalidInputError, match=r"give it another name: name=\.\.\.$"):
        metrics_of([make(**needed), make(**needed)])
    first, second = metrics_of([make(**needed), make(**needed, name="second")])
    assert (second.name, first.version) == ("second", second.version)


def test_the_figure_without_an_aggregate_follows_the_name():
    figures = metrics.exact_match(name="same")(["a"], ["a"]).aggregate_results
    assert figures["same"] == 1
    assert "exact_match" not in figures


def test_the_default_evaluator_of_mlflow_takes_the_metrics_of_form(tracking):
    frame = pd.DataFrame(
        {"inputs": list("abc"), "answer": ['{"a": 1}', "```python\nx = 1\n```", "I cannot help with that."]}
    )
    several = [is_valid_json(), is_valid_json({"required": ["a"]}, name="has_a"), python_syntax_ok(), is_refusal(),
               contains("x ="), matches_regex(r"^\W"), repetition_rate(2), latency()]  # fmt: skip
    with mlflow.start_run():
        result = mlflow.models.evaluate(
            data=frame, predictions="answer", evaluators="default", extra_metrics=metrics_of(several)
        )
    means = {key: value for key, value in result.metrics.items() if key.endswith("/mean")}
    third = pytest.approx(1 / 3)
    assert means == {
        "is_valid_json/v1/mean": third,
        "has_a/v1/mean": third,
        "python_syntax_ok/v1/mean": pytest.approx(2 / 3),
        "is_refusal/v1/mean": third,
        "contains/v1/mean": third,
        "matches_regex/v1/mean": pytest.approx(2 / 3),
        "repetition_rate/v1/mean": 0.0,
        "latency/mean": 0.0,  # what stock MLflow says of data without a model
    }
    table = result.tables["eval_results_table"]
    assert list(table["is_valid_json/v1/score"]) == [1.0, 0.0, 0.0]


def test_an_installed_package_is_imported():
    import json.decoder

    assert require("json.decoder") is json.decoder


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch, tmp_path):
    with pytest.raises(MissingDependencyError) as error:
        require("goldlib.sub")
    assert str(error.value) == f"This metric needs goldlib: {INSTALL}"
    with pytest.raises(MissingDependencyError) as error:
        require("goldlib.sub", "gold-lib")
    assert str(error.value) == f"This metric needs gold-lib: {INSTALL}"
    (tmp_path / "half_installed.py").write_text("import goldlib")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingDependencyError) as error:
        require("half_installed")
    assert str(error.value) == f"This metric needs half_installed (No module named 'goldlib'): {INSTALL}"


def test_a_package_that_is_there_and_broken_keeps_its_own_error(monkeypatch, tmp_path):
    (tmp_path / "broken_inside.py").write_text("raise OSError('libgold.so is missing')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(OSError, match=r"^libgold\.so is missing$"):
        require("broken_inside")
