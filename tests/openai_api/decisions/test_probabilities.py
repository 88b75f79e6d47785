"""The arithmetic from log-probabilities to shares, expected levels and confidences."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_llm_plugins.errors import GenerationError
from mlflow_llm_plugins.openai_api.decisions.probabilities import (
    choice_confidence,
    expected_level,
    label_mass,
    probabilities,
    score_confidence,
)

finite = st.floats(-1e4, 0)
rows = st.lists(finite | st.just(-math.inf), min_size=1, max_size=255).filter(lambda row: max(row) > -math.inf)
temperatures = st.floats(min_value=0, exclude_min=True, max_value=1e6)
shares = st.lists(st.floats(0, 1), min_size=1, max_size=12).filter(any).map(lambda row: [x / sum(row) for x in row])


@settings(deadline=None)
@given(rows, temperatures)
def test_probabilities_add_up_to_one_and_keep_the_order(row, temperature):
    result = probabilities(row, temperature)
    assert math.isclose(math.fsum(result), 1, abs_tol=1e-9)
    assert all(0 <= share <= 1 for share in result)
    assert result[row.index(max(row))] == max(result)


@settings(deadline=None)
@given(st.lists(st.floats(-20, 0), min_size=2, max_size=20))
def test_at_temperature_one_shares_are_those_of_the_probabilities(row):
    total = sum(math.exp(logprob) for logprob in row)
    assert probabilities(row, 1.0) == pytest.approx([math.exp(logprob) / total for logprob in row])


def test_the_temperature_divides_the_log_probabilities():
    assert probabilities([math.log(0.8), math.log(0.2)], 2.0) == pytest.approx([2 / 3, 1 / 3])


@pytest.mark.parametrize("row", [[math.nan, -1.0], [-1.0, math.nan], [-math.inf, -math.inf], [math.inf, 0.0]])
def test_scores_that_are_no_probabilities_fail_the_question(row):
    with pytest.raises(GenerationError, match=r"^The model's probabilities of the labels are no numbers above 0\.$"):
        probabilities(row, 1.0)


def test_the_label_mass_is_what_the_labels_have_together():
    assert label_mass([math.log(0.25), math.log(0.5), -math.inf]) == pytest.approx(0.75)


def test_a_label_mass_rounded_above_one_is_one():
    assert label_mass([1e-7, -20.0]) == 1.0


@settings(deadline=None)
@given(shares)
def test_confidences_and_levels_stay_within_their_bounds(row):
    assert 0 <= choice_confidence(row) <= 1
    assert 0 <= score_confidence(row) <= 1
    assert 0 <= expected_level(row) <= (len(row) - 1) * (1 + 1e-9)


@pytest.mark.parametrize("confidence", [choice_confidence, score_confidence])
@pytest.mark.parametrize("count", [2, 3, 10])
def test_confidence_is_0_for_chance_and_1_for_certainty(confidence, count):
    certain = [0.0] * (count - 1) + [1.0]
    assert confidence(certain) == pytest.approx(1)
    assert choice_confidence([1 / count] * count) == pytest.approx(0, abs=1e-12)
    assert confidence([1.0]) == 1.0


def test_confidence_of_a_choice_is_its_lead_over_chance():
    assert choice_confidence([0.7, 0.2, 0.1]) == pytest.approx((0.7 - 1 / 3) / (2 / 3))


def test_confidence_of_a_score_falls_with_the_distance_from_its_mode():
    assert score_confidence([0.8, 0.2, 0.0]) == pytest.approx(1 - 0.2 / (2 / 3))
    assert score_confidence([0.8, 0.0, 0.2]) == pytest.approx(1 - 0.4 / (2 / 3))


def test_the_expected_level_counts_from_0():
    assert expected_level([0.1, 0.2, 0.7]) == pytest.approx(1.6)


@pytest.fixture(scope="module")
def reference():
    return pytest.importorskip("transformers.decision.template_utils").Question


@settings(deadline=None)
@given(row=shares)
def test_confidences_are_those_of_transformers(reference, row):
    names = [str(i) for i in range(len(row))]
    question = {"name": "q", "instructions": "", "options": names, "labels": names, "descriptions": names}
    assert choice_confidence(row) == pytest.approx(reference(type="choice", **question).answer(row)["confidence"])
    score = reference(type="score", **question).answer(row)
    assert (score_confidence(row), expected_level(row)) == pytest.approx((score["confidence"], score["score"]))
