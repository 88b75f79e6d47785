"""The judges for common questions."""

import inspect

import pytest

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.metrics.judge import ready_made
from tests.metrics.judge.scripted_judge import ScriptedJudge, certain

COLUMNS = {
    "answer_correctness": ["predictions", "inputs", "targets"],
    "answer_similarity": ["predictions", "targets"],
    "relevance": ["predictions", "inputs"],
    "faithfulness": ["predictions", "context", "inputs"],
    "conciseness": ["predictions", "inputs"],
}


def made(which, **options):
    backend = ScriptedJudge(lambda question: certain(question, "4"))
    return getattr(ready_made, which)(backend, **options)


@pytest.mark.parametrize("name", COLUMNS)
def test_each_has_its_name_its_columns_and_a_described_level_for_each_score(name):
    metric = made(name)
    needed = [key for key, parameter in inspect.signature(metric.eval_fn).parameters.items()
              if parameter.default is inspect.Parameter.empty]  # fmt: skip
    assert (metric.name, needed) == (name, COLUMNS[name])
    assert [option["label"] for option in metric.metric_metadata["options"]] == ["1", "2", "3", "4", "5"]
    assert len({option["description"] for option in metric.metric_metadata["options"]}) == 5


@pytest.mark.parametrize("name", COLUMNS)
def test_what_rows_share_is_short(name):
    shared = made(name).metric_metadata["prompt"].partition("NONCE>")[0]
    assert 110 <= len(shared.split()) <= 190  # about 1.3 tokens a word


@pytest.mark.parametrize("name", COLUMNS)
def test_each_scores_a_row_and_takes_the_options_of_any_judge(name):
    metric = made(name, control_rows=False, rationale=True, name=f"my_{name}", version="v2")
    result = metric(**{column: ["some text"] for column in COLUMNS[name]})
    assert result.columns["choice"] == ["4"]
    assert (metric.name, metric.version) == (f"my_{name}", "v2")


def levels(metric):
    return [(option["label"], option["description"] != "") for option in metric.metric_metadata["options"]]


@pytest.mark.parametrize(
    "scale", ["yes/no", "1-10", (1, 3), ["good", "bad"], {"1": 0, "2": 1, "3": 2, "4": 3, "five": 4}]
)
def test_the_described_levels_are_left_out_of_another_scale(scale):
    assert not any(is_described for _, is_described in levels(made("relevance", scale=scale)))


@pytest.mark.parametrize("scale", [(1, 5), "1-5", [1, 2, 3, 4, 5], {"1": 0, "2": 1, "3": 2, "4": 3, "5": 4}])
def test_the_described_levels_belong_to_the_same_scale_however_it_is_written(scale):
    assert levels(made("relevance", scale=scale)) == [(label, True) for label in "12345"]


def test_a_rubric_that_is_given_is_used_with_any_scale():
    assert levels(made("relevance", scale="yes/no", rubric={"Yes": "on it"})) == [("Yes", True), ("No", False)]
    with pytest.raises(InvalidInputError, match=r"rubric: '5' is no option of the scale\."):
        made("relevance", scale="yes/no", rubric={5: "on it"})


def test_an_unknown_option_is_refused_with_what_was_meant():
    with pytest.raises(InvalidInputError) as error:
        ready_made.relevance(None, rational=True)
    assert "relevance: unknown option 'rational'. Did you mean 'rationale'?" in str(error.value)
