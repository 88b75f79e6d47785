from __future__ import annotations

import math

import mlflow
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.evaluation import Variant
from mlflow_llm_plugins.evaluation.comparison.data import ComparedData
from mlflow_llm_plugins.evaluation.comparison.prompt_template import PromptTemplate
from mlflow_llm_plugins.evaluation.comparison.variant import variants_of
from mlflow_llm_plugins.metrics import answer_similarity, exact_match
from mlflow_llm_plugins.metrics.judge.chosen import is_self_judging


def answer(frame):
    return ["yes"] * len(frame)


def refusal(call, *args) -> str:
    with pytest.raises(InvalidInputError) as error:
        call(*args)
    return str(error.value)


def render(template: str, **columns) -> list[str | None]:
    return PromptTemplate.parse(template, "template").render(pd.DataFrame(columns, dtype=object))


def test_a_variant_is_a_model_a_dictionary_or_a_variant():
    whole = {
        "model": "models:/a/1",
        "prompt_template": "{q}",
        "params": {"n": 1},
        "model_config": {"quantization": "nf4"},
    }
    variants = variants_of(
        {"a": "models:/a/1", "b": answer, "c": whole, "d": Variant(**whole), "e": {"predictions": "p"}}
    )
    assert list(variants) == ["a", "b", "c", "d", "e"]
    assert variants["a"].is_loaded_here
    assert variants["b"].is_function
    assert not variants["b"].is_loaded_here
    assert variants["c"] == variants["d"]
    assert variants["c"].load_config == {"quantization": "nf4"}
    assert variants["c"].described() == {
        "model": "models:/a/1",
        "prompt_template": "{q}",
        "params": '{"n": 1}',
        "model_config": '{"quantization": "nf4"}',
    }
    assert variants["b"].described() == {"model": "answer"}
    assert variants["e"].described() == {"predictions": "p"}


def test_an_endpoint_is_not_loaded():
    assert not variants_of({"a": "endpoints:/x"})["a"].is_loaded_here


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ({}, "models must be a dictionary with at least one name -> model, got {}."),
        ([answer], "models must be a dictionary"),
        ({"a/b": answer}, "got 'a/b'."),
        ({"": answer}, "a name must be of letters"),
        ({" a": answer}, "got ' a'."),
        ({1: answer}, "got 1."),
        ({"modèle": answer}, "got 'modèle'."),
        ({"nf4": answer, "NF4": answer}, "'nf4' and 'NF4' differ in upper case only"),
        ({"a": {"model": answer, "parms": {}}}, "models['a']: unknown key 'parms'. Did you mean 'params'?"),
        ({"a": {"model": answer, "modelconfig": {}}}, "Did you mean 'model_config'?"),
        ({"a": {}}, "give either a model or predictions="),
        ({"a": None}, "give either a model or predictions="),
        ({"a": {"model": answer, "predictions": "p"}}, "give either a model or predictions="),
        ({"a": {"predictions": "p", "params": {"n": 1}}}, "finished predictions have no prompt_template"),
        ({"a": 7}, "model must be a URI, 'endpoints:/name', a pyfunc model or a function, got int."),
        ({"a": {"model": answer, "model_config": {"x": 1}}}, "give the model by its URI"),
        ({"a": {"model": answer, "params": {"n": 1}}}, "models['a']: a function gets no params: have it use them"),
        ({"a": {"model": "endpoints:/x", "model_config": {"x": 1}}}, "give the model by its URI"),
    ],
)
def test_wrong_models_are_refused_in_words_that_help(models, message: str):
    assert message in refusal(variants_of, models)


def test_a_template_is_filled_with_the_cells_of_each_row():
    template = "{{json}} {q}: {my column} {q}"
    assert render(template, q=["a", "{b}"], **{"my column": [1, 2.5]}) == ["{json} a: 1 a", "{json} {b}: 2.5 {b}"]


def test_a_missing_cell_leaves_its_row_without_a_prompt():
    assert render("{a}{b}", a=["x", None, math.nan], b=["y", "y", "y"]) == ["xy", None, None]


def test_a_template_reads_whole_cells_only():
    parsed = PromptTemplate.parse("{q.__class__} {q[0]}", "template")
    assert parsed.columns == ["q.__class__", "q[0]"]
    assert parsed.render(pd.DataFrame({"q.__class__": ["x"], "q[0]": ["y"]})) == ["x y"]
    assert "there is no column 'q.__class__' to fill in." in refusal(parsed.check, ["q"])


@pytest.mark.parametrize("text", ["{}", "{q!r}", "{q:>5}"])
def test_fields_that_are_no_columns_are_refused(text: str):
    assert "a field is the name of a column, as {inputs}; got" in refusal(PromptTemplate.parse, text, "t")


@pytest.mark.parametrize("text", ["{", "}", "{q", '{"a": "{q}"'])
def test_open_braces_are_refused_with_the_remedy(text: str):
    assert "for a brace that is meant." in refusal(PromptTemplate.parse, text, "t")


@pytest.mark.parametrize("text", ["Say {{question}}", "{n} {{ question }}"])
def test_columns_in_double_braces_are_refused_with_the_single_form(text: str):
    message = refusal(PromptTemplate.parse(text, "t").check, ["question", "n"])
    assert message == (
        "t: '{{question}}' is only the text '{question}', as '{{' stands for a brace. Write '{question}' to fill in "
        "the column."
    )


def test_double_braces_around_anything_else_are_braces():
    parsed = PromptTemplate.parse('{{"q": "{q}"}} {{{q}}} {{other}}', "t")
    parsed.check(["q"])
    assert parsed.render(pd.DataFrame({"q": ["x"]})) == ['{"q": "x"} {x} {other}']


def test_an_unknown_column_is_refused_with_the_nearest():
    message = refusal(PromptTemplate.parse("Say {qestion}", "models['a']: prompt_template").check, ["question", "n"])
    assert message.startswith("models['a']: prompt_template: there is no column 'qestion' to fill in.")
    assert "Did you mean 'question'? There are: question, n;" in message


def test_cells_that_are_no_text_are_refused_without_being_quoted():
    message = refusal(PromptTemplate.parse("{q}", "t").render, pd.DataFrame({"q": [["secret"]]}))
    assert message == "t: column 'q' holds list; only text and numbers can be filled in."


@given(st.text(), st.text())
def test_any_text_is_filled_in_unchanged_and_escapes_come_back(before: str, cell: str):
    escaped = before.replace("{", "{{").replace("}", "}}")
    assert render(escaped + "{q}" + escaped, q=[cell]) == [before + cell + before]


def arguments(frame, template, targets=None, wanted=None):
    variant = Variant(model=answer, prompt_template=template)
    return ComparedData(frame, targets).arguments("v", variant, wanted)


def test_the_prompt_takes_the_place_of_the_question():
    frame = pd.DataFrame({"question": ["a", "b"], "context": ["c", "d"], "target": ["e", "f"]}, index=[5, 9])
    found = arguments(frame, "{context}? {question}", "target")
    assert list(found["data"]["question"]) == ["c? a", "d? b"]
    assert found["col_mapping"] == {"inputs": "question"}
    assert found["targets"] == "target"
    assert list(frame["question"]) == ["a", "b"]


def test_without_a_column_of_questions_the_prompt_gets_its_own():
    found = arguments(pd.DataFrame({"a": ["x"], "b": ["y"]}), "{a}-{b}")
    assert list(found["data"]["prompt"]) == ["x-y"]
    assert found["col_mapping"] == {"inputs": "prompt"}


def test_the_only_column_is_the_question_and_targets_are_none():
    found = arguments(pd.DataFrame({"a": ["x"], "t": ["y"]}), "{a}!", "t")
    assert found["data"].to_dict("list") == {"a": ["x!"], "t": ["y"]}
    frame = pd.DataFrame({"a": ["x"], "t": ["y"]})
    assert "there is no column 't' to fill in." in refusal(arguments, frame, "{t}", "t")


def test_two_columns_of_questions_must_be_told_apart():
    frame = pd.DataFrame({"instruction": ["a"], "input": ["b"]})
    assert "Which column is the model asked with?" in refusal(arguments, frame, "{input}")
    assert arguments(frame, "{input}{instruction}", wanted="instruction")["data"]["instruction"].iloc[0] == "ba"


def test_a_dataset_of_mlflow_is_a_table_too():
    dataset = mlflow.data.from_pandas(pd.DataFrame({"q": ["a"], "t": ["b"]}), targets="t")
    found = arguments(dataset, "{q}?")
    assert (list(found["data"]["q"]), found["targets"]) == (["a?"], "t")
    untouched = ComparedData(dataset, None).arguments("v", Variant(model=answer), None)
    assert untouched["data"] is dataset
    assert "targets" not in untouched


def test_data_without_names_have_no_columns_for_a_template():
    assert "models['v']: prompt_template needs data with named columns" in refusal(arguments, np.array([["a"]]), "{q}")


def test_columns_with_numbers_for_names_can_be_filled_in():
    data = ComparedData.of(pd.DataFrame({0: ["a"], 1: ["b"], 2: ["c"]}), 2)
    found = data.arguments("v", Variant(model=answer, prompt_template="{0}-{1}"), None)
    assert (list(found["data"]["prompt"]), found["targets"]) == (["a-b"], "2")


def test_models_see_no_answers_of_others_and_no_groups_unless_something_reads_them():
    frame = pd.DataFrame({"q": ["a"], "old": ["b"], "older": ["c"], "set": ["d"], "t": ["e"]})
    data = ComparedData.of(frame, "t").without(["old", "older", "set", "t", None], ["older"])
    assert list(data.arguments("v", Variant(model=answer), None)["data"].columns) == ["q", "older", "t"]
    static = data.arguments("v", Variant(predictions="old"), None)["data"]
    assert list(static.columns) == ["q", "old", "older", "t"]
    filled = data.arguments("v", Variant(model=answer, prompt_template="{set} {q}"), "q")["data"]
    assert filled.to_dict("list") == {"q": ["d a"], "older": ["c"], "t": ["e"]}
    dataset = mlflow.data.from_pandas(frame, targets="t", name="mine")
    shown = (
        ComparedData.of(dataset, None)
        .without(["old", "older", "set"], [])
        .arguments("v", Variant(model=answer), None)["data"]
    )
    assert (list(shown.df.columns), shown.targets, shown.name) == (["q", "t"], "t", "mine")
    only = ComparedData.of(frame[["old", "t"]], "t").without(["old"], [])
    assert list(only.arguments("v", Variant(model=answer), None)["data"].columns) == ["old", "t"]


def test_groups_of_missing_cells_have_one_name():
    data = ComparedData(pd.DataFrame({"set": ["a", None, math.nan, "nan"]}, dtype=object), None)
    assert data.groups("set") == ["a", "(none)", "(none)", "nan"]


FRAME = pd.DataFrame({"q": ["a", "b"], "t": ["c", "d"]})


@pytest.mark.parametrize(
    ("data", "targets", "message"),
    [
        (None, None, "data must be a DataFrame, a list, a numpy array or a dataset of mlflow.data, got NoneType."),
        ("rows.csv", None, "a dataset of mlflow.data, got str."),
        (FRAME.head(0), "t", "data has no rows to compare models by; give at least one."),
        ([], None, "data has no rows to compare models by; give at least one."),
        (FRAME[["q"]], ["c", "d"], "targets must be the name of a column where data is a DataFrame, got list. Add it"),
        (FRAME[["q"]], FRAME["t"], "where data is a DataFrame, got Series. Add it to the data"),
        (
            mlflow.data.from_pandas(FRAME),
            "t",
            "targets are named in a dataset: mlflow.data.from_pandas(frame, targets",
        ),
        (FRAME[["q", "t", "q"]], "t", "data has several columns 'q'; rename them."),
    ],
)
def test_data_that_cannot_be_compared_by_are_refused(data, targets, message: str):
    assert message in refusal(ComparedData.of, data, targets)


def test_columns_that_are_not_there_are_refused_before_anything_runs():
    frame = pd.DataFrame({"question": ["a"], "answer": ["b"]})
    variants = variants_of({"v": {"predictions": "anser"}})
    data = ComparedData(frame, "answer")
    assert "models['v']: predictions: there is no column 'anser'. Did you mean 'answer'?" in refusal(
        data.check, variants, None, None
    )
    assert "group_by: there is no column 'set'." in refusal(data.check, {}, "set", None)
    assert "targets: there is no column 'answr'. Did you mean 'answer'?" in refusal(
        ComparedData(frame, "answr").check, {}, None, None
    )


@pytest.mark.parametrize("judge", ["http://localhost:1/v1", lambda prompt: "5"])
def test_only_judges_without_a_name_would_be_the_evaluated_model(judge, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MLFLOW_LLM_JUDGE", raising=False)
    unnamed = answer_similarity()
    assert [is_self_judging(metric) for metric in (unnamed, answer_similarity(judge=judge), exact_match())] == [
        True,
        False,
        False,
    ]
    monkeypatch.setenv("MLFLOW_LLM_JUDGE", "http://localhost:1/v1")
    assert not is_self_judging(unnamed)
