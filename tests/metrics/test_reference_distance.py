"""The edit distance against the textbook's table."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_llm_plugins.metrics.reference.distance import edit_distance


def levenshtein(left: str, right: str) -> int:
    previous = list(range(len(right) + 1))
    for row, character in enumerate(left, start=1):
        current = [row]
        for column, other in enumerate(right, start=1):
            costs = (previous[column] + 1, current[-1] + 1, previous[column - 1] + (character != other))
            current.append(min(costs))
        previous = current
    return previous[-1]


@given(st.text(max_size=15), st.text(max_size=15))
def test_distance_is_the_textbooks_divided_by_the_longer_length_and_symmetric(left, right):
    there, back, same = edit_distance()([left, right, left], [right, left, left]).scores
    assert there == pytest.approx(levenshtein(left, right) / max(len(left), len(right), 1))
    assert there == back
    assert 0 <= there <= 1
    assert same == 0


@given(st.text("ab", max_size=12), st.text("ab", max_size=12))
def test_distance_holds_for_texts_that_share_much(left, right):
    score = edit_distance()([left], [right]).scores[0]
    assert score == pytest.approx(levenshtein(left, right) / max(len(left), len(right), 1))


def test_the_nearest_of_several_targets_counts_and_less_is_better():
    metric = edit_distance()
    assert metric(["kitten"], [["sitting", "mitten"]]).scores == [pytest.approx(1 / 6)]
    assert metric.greater_is_better is False


def test_long_texts_of_many_characters_are_scored():
    long = "".join(chr(0x4E00 + number % 20_000) for number in range(100_000))
    assert edit_distance()([long], [long[:-1_000] + "x" * 1_000]).scores == [pytest.approx(0.01)]


def test_bad_rows_have_reasons():
    result = edit_distance()([None, "x", 3, "same"], ["x", [], "x", "same"])
    assert all(map(math.isnan, result.scores[:3]))
    assert result.justifications == [
        "the prediction is missing",
        "the target is an empty list",
        "the prediction is of type int, not text",
        None,
    ]
    assert result.aggregate_results == {"mean": 0, "variance": 0, "p90": 0, "count": 1}
