"""All faults come in one error, whose class says what is the matter."""

from __future__ import annotations

from functools import partial

import pytest

from mlflow_llm_plugins.errors import InvalidInputError, UnsupportedFeatureError
from mlflow_llm_plugins.openai_api.decisions import InvalidDecisionError, TooManyQuestionsError
from mlflow_llm_plugins.openai_api.decisions.faults import read_all


def fail(error):
    raise error


def test_without_faults_everything_is_read_in_order():
    assert read_all([lambda: "a", lambda: "b"]) == ["a", "b"]


def test_a_single_fault_comes_as_it_is():
    fault = TooManyQuestionsError("too many.")
    with pytest.raises(TooManyQuestionsError) as refusal:
        read_all([lambda: "a", partial(fail, fault)])
    assert refusal.value is fault


def test_several_faults_are_told_together():
    faults = [InvalidDecisionError("a is wrong."), UnsupportedFeatureError("b cannot be.")]
    with pytest.raises(InvalidDecisionError, match=r"^a is wrong\. b cannot be\.$"):
        read_all([partial(fail, fault) for fault in faults])


def test_a_hundred_faults_are_not_all_told():
    faults = [InvalidDecisionError(f"{i} is wrong.") for i in range(100)]
    with pytest.raises(InvalidDecisionError, match=r"^0 is wrong\. .* 19 is wrong\. And 80 more\.$"):
        read_all([partial(fail, fault) for fault in faults])


def test_faults_that_are_all_unsupported_stay_unsupported():
    faults = [UnsupportedFeatureError("a cannot be."), UnsupportedFeatureError("b cannot be.")]
    with pytest.raises(UnsupportedFeatureError, match=r"^a cannot be\. b cannot be\.$"):
        read_all([partial(fail, fault) for fault in faults])


def test_errors_that_are_no_fault_of_the_caller_pass():
    with pytest.raises(KeyError):
        read_all([partial(fail, KeyError("x"))])


def test_the_errors_are_the_caller_s_fault():
    assert issubclass(TooManyQuestionsError, InvalidDecisionError)
    assert issubclass(InvalidDecisionError, InvalidInputError)
