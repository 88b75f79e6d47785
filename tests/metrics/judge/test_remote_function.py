"""A Python function as a judge: what it returns is one of the options or the row's error."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_llm_plugins.metrics.judge.backends import backend_of
from tests.metrics.judge.remote_server import CHOICES, ONE_TO_FIVE, YES_NO, a_question


def asked(answer, kind="yes_no", options=YES_NO, **how):
    (opinion,) = backend_of(lambda text: answer).ask([a_question("x", kind, options)], progress=False, **how)
    return opinion


@pytest.mark.parametrize(
    ("answer", "kind", "options", "choice"),
    [
        ("Yes", "yes_no", YES_NO, 0),
        (" No\n", "yes_no", YES_NO, 1),
        (True, "yes_no", YES_NO, 0),
        (False, "yes_no", YES_NO, 1),
        (np.bool_(True), "yes_no", YES_NO, 0),
        (4, "score", ONE_TO_FIVE, 3),
        (4.0, "score", ONE_TO_FIVE, 3),
        (np.float32(2), "score", ONE_TO_FIVE, 1),
        ("5", "score", ONE_TO_FIVE, 4),
        ("Correct but short", "choice", CHOICES, 2),
        ({"choice": "classes"}, "choice", CHOICES, 1),
    ],
)
def test_a_label_or_what_it_counts_is_a_verdict(answer, kind, options, choice):
    opinion = asked(answer, kind, options)
    assert (opinion.choice, opinion.error, opinion.logprobs) == (choice, None, None)


@pytest.mark.parametrize("answer", ["yes", "YES", "", None, 2, math.nan, "Yes.", [0], {"choice": "maybe"}])
def test_anything_else_is_an_error_and_never_guessed(answer):
    opinion = asked(answer)
    assert opinion.choice is None
    assert opinion.error == "the judge's answer is none of the options"


@pytest.mark.parametrize("answer", [True, np.bool_(True), {"choice": True}])
def test_true_is_no_level(answer):
    assert asked(answer, "score", ONE_TO_FIVE).error == "the judge's answer is none of the options"


def test_a_function_is_called_in_the_thread_of_its_caller():
    seen = []
    backend_of(lambda text: seen.append(threading.get_ident()) or "Yes").ask([a_question()] * 5, progress=False)
    assert seen == [threading.get_ident()] * 5


def test_between_two_levels_there_is_none():
    assert asked(3.7, "score", ONE_TO_FIVE).error == "the judge's answer is none of the options"


def test_probabilities_and_a_rationale_can_be_told():
    answer = {"probabilities": {"Yes": 0.25, "No": np.float64(0.75)}, "rationale": "short"}
    opinion = asked(answer, rationale=True)
    assert opinion.choice == 1
    assert [math.exp(logprob) for logprob in opinion.logprobs] == pytest.approx([0.25, 0.75])
    assert (opinion.rationale, asked(answer).rationale) == ("short", None)


@pytest.mark.parametrize(
    ("probabilities", "words"),
    [
        ({"Yes": 0.5}, "not those of the options"),
        ({"Yes": 0.5, "No": 0.2}, "do not add up to 1"),
        ({"Yes": 1.5, "No": -0.5}, "no numbers from 0 to 1"),
        ({"Yes": math.nan, "No": 0.5}, "no numbers from 0 to 1"),
        ("Yes", "not those of the options"),
    ],
)
def test_wrong_probabilities_are_an_error(probabilities, words):
    assert words in asked({"probabilities": probabilities}).error


def test_a_function_that_raises_costs_its_row_alone_and_tells_nothing_of_it():
    def judge(text):
        if "SECRET" in text:
            raise ValueError(text)
        return "Yes"

    questions = [a_question(text) for text in ("SECRET", "good", "SECRET", "good")]
    opinions = backend_of(judge).ask(questions, progress=False)
    assert [opinion.choice for opinion in opinions] == [None, 0, None, 0]
    assert [opinion.error for opinion in opinions] == ["the judge failed with ValueError", None] * 2


@given(st.lists(st.text(), max_size=5))
def test_the_function_sees_the_whole_text_of_each_row_in_order(texts):
    seen = []
    questions = [a_question(text) for text in texts]
    opinions = backend_of(lambda text: seen.append(text) or "No").ask(questions, progress=False)
    assert seen == [question.text() for question in questions]
    assert [opinion.choice for opinion in opinions] == [1] * len(texts)


def test_the_function_is_described_by_where_it_is():
    assert backend_of(asked).describe() == {"backend": "function", "function": f"{__name__}:asked"}
