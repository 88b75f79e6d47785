"""Opinions to verdicts, checked by hand and with numpy."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_llm_plugins.metrics.judge.question import Opinion
from mlflow_llm_plugins.metrics.judge.scale import parse_scale
from mlflow_llm_plugins.metrics.judge.verdict import both_orders, contextual_prior, fault_of, verdict_of


def opinion(*probabilities, **more):
    return Opinion(choice=0, logprobs=tuple(math.log(p) for p in probabilities), **more)


def test_the_score_is_the_probability_weighted_value():
    verdict = verdict_of(opinion(0.1, 0.2, 0.1))  # a half, renormalised
    assert verdict.probabilities == pytest.approx((0.25, 0.5, 0.25))
    assert verdict.value(parse_scale((1, 3))) == pytest.approx(2.0)
    assert verdict.value(parse_scale({"a": 0, "b": 10, "c": 100})) == pytest.approx(30.0)
    assert verdict.value(parse_scale(["a", "b", "c"])) is None
    assert (verdict.choice, verdict.confidence, verdict.margin) == (1, pytest.approx(0.5), pytest.approx(0.25))


def test_the_mass_is_what_all_options_have_together_unless_they_were_normalised():
    assert verdict_of(opinion(0.1, 0.2)).choice_mass == pytest.approx(0.3)
    assert verdict_of(opinion(0.4, 0.59999)).choice_mass == pytest.approx(0.99999)  # nearly one is no guess
    assert verdict_of(opinion(0.4, 0.6, is_normalised=True)).choice_mass is None  # what else it wanted is not known
    assert verdict_of(opinion(0.4, 0.6, choice_mass=0.05)).choice_mass == 0.05


def test_without_probabilities_the_value_is_that_of_the_choice():
    verdict = verdict_of(Opinion(choice=2))
    assert verdict.value(parse_scale((1, 3))) == 3.0
    assert (verdict.confidence, verdict.margin, verdict.choice_mass) == (None, None, None)


def test_contextual_correction_divides_by_the_mean_without_a_case():
    prior = contextual_prior([opinion(0.8, 0.2), opinion(0.3, 0.1), opinion(0.85, 0.15)])  # the second: 0.75, 0.25
    assert prior == pytest.approx((0.8, 0.2))
    verdict = verdict_of(opinion(0.6, 0.4), prior)  # 0.75 : 2
    assert verdict.probabilities == pytest.approx((0.75 / 2.75, 2 / 2.75))
    assert verdict.choice == 1
    assert verdict.logprobs == pytest.approx((math.log(0.6), math.log(0.4)))  # as they were


def test_a_label_that_never_comes_without_a_case_is_not_divided_by_nothing():
    prior = contextual_prior([opinion(1 - 1e-12, 1e-12)])
    assert prior == pytest.approx((1.0, 0.01))
    assert verdict_of(opinion(0.999, 0.001), prior).choice == 0


def test_there_is_no_prior_without_probabilities():
    assert contextual_prior([Opinion(choice=1), Opinion(choice=0)]) is None
    assert contextual_prior([]) is None


def test_two_orders_are_averaged_by_what_options_mean():
    verdict = both_orders(opinion(0.7, 0.2, 0.1), opinion(0.6, 0.3, 0.1), 3)  # the second was listed backwards
    assert verdict.probabilities == pytest.approx((0.4, 0.25, 0.35))
    assert verdict.choice == 0
    assert verdict.orders_agree is False  # the first order says 0, the second the last
    assert verdict.reversed_logprobs == pytest.approx([math.log(p) for p in (0.1, 0.3, 0.6)])


def test_two_orders_that_mean_the_same_agree():
    verdict = both_orders(opinion(0.7, 0.2, 0.1), opinion(0.1, 0.2, 0.7), 3)
    assert verdict.orders_agree is True
    assert verdict.probabilities == pytest.approx((0.7, 0.2, 0.1))


def test_without_probabilities_each_order_is_a_vote():
    verdict = both_orders(Opinion(choice=0), Opinion(choice=0), 5)
    assert verdict.orders_agree is False
    assert verdict.value(parse_scale((1, 5))) == 3.0
    assert both_orders(Opinion(choice=1), Opinion(choice=3), 5).value(parse_scale((1, 5))) == 2.0


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (Opinion(error="no answer in time"), "no answer in time"),
        (Opinion(), "the judge gave no verdict"),
        (Opinion(choice=3), "the judge gave no verdict"),
        (Opinion(choice=-1), "the judge gave no verdict"),
        (Opinion(choice=0, logprobs=(-1.0, -2.0)), "the judge's probabilities are no numbers"),
        (Opinion(choice=0, logprobs=(-1.0, math.nan, -2.0)), "the judge's probabilities are no numbers"),
        (Opinion(choice=0, logprobs=(-math.inf,) * 3), "the judge's probabilities are no numbers"),
    ],
)
def test_opinions_that_cannot_be_used_say_why(bad, reason):
    assert fault_of(bad, 3) == reason
    assert fault_of(Opinion(choice=2), 3) is None


logprobs = st.lists(st.floats(-800, 0), min_size=2, max_size=6)


@given(logprobs, st.data())
def test_probabilities_are_those_of_numpy_in_double_precision(values, data):
    prior_logprobs = data.draw(st.lists(st.floats(-30, 0), min_size=len(values), max_size=len(values)))
    prior = np.maximum(np.exp(prior_logprobs) / np.exp(prior_logprobs).sum(), 0.01)
    shifted = np.exp(np.array(values) - max(values))
    expected = shifted / shifted.sum() / prior
    found = verdict_of(Opinion(logprobs=tuple(values)), contextual_prior([Opinion(logprobs=tuple(prior_logprobs))]))
    assert found.probabilities == pytest.approx(expected / expected.sum(), abs=1e-12)
    assert math.fsum(found.probabilities) == pytest.approx(1)
    assert found.confidence == max(found.probabilities)
