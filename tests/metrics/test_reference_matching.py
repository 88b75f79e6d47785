"""Exact match and token F1 against SQuAD's own code."""

from __future__ import annotations

import math
import re
import string
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_llm_plugins.metrics.reference.matching import exact_match, token_f1

ASCII = st.text(st.characters(max_codepoint=126, min_codepoint=32), max_size=60)
ENGLISH = st.lists(
    st.sampled_from(["a", "the", "an", "The", "cat,", "cat.", "sat-on", "(mat)", "don't", "42", "A", "b", "x"]),
    max_size=8,
).map(" ".join)


def squad_f1(prediction: str, target: str) -> float:
    """As in SQuAD's evaluate-v2.0.py, line by line."""

    def tokens(text: str) -> list[str]:
        text = "".join(character for character in text.lower() if character not in set(string.punctuation))
        return re.sub(r"\b(a|an|the)\b", " ", text).split()

    gold, predicted = tokens(target), tokens(prediction)
    common = Counter(gold) & Counter(predicted)
    same = sum(common.values())
    if len(gold) == 0 or len(predicted) == 0:
        return float(gold == predicted)
    if same == 0:
        return 0.0
    precision, recall = same / len(predicted), same / len(gold)
    return 2 * precision * recall / (precision + recall)


@given(st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3)), min_size=1, max_size=5))
def test_exact_match_is_plain_equality_by_default(pairs):
    predictions, targets = zip(*pairs, strict=True)
    result = exact_match()(predictions, targets)
    assert result.scores == [float(prediction == target) for prediction, target in pairs]
    assert result.aggregate_results["exact_match"] == result.aggregate_results["mean"] == np.mean(result.scores)


@pytest.mark.parametrize(
    ("options", "prediction", "target", "expected"),
    [
        ({}, "Paris", "paris", 0),
        ({"ignore_case": True}, "STRASSE", "straße", 1),
        ({"ignore_case": True}, "Paris.", "paris", 0),
        ({"ignore_punctuation": True}, "Hello , world。$", "Hello world", 1),
        ({"ignore_punctuation": True}, "Paris.", "paris", 0),
        ({}, " x\n", "x", 0),
        ({"strip": True}, " x\n", "x", 1),
        ({"strip": True}, "x y", "x  y", 0),
    ],
)
def test_options_loosen_what_counts_as_equal(options, prediction, target, expected):
    assert exact_match(**options)([prediction], [target]).scores == [expected]


@pytest.mark.parametrize(
    ("prediction", "target", "expected"),
    [
        ("4", 4, 1),
        (4, "4", 1),
        ("4", 4.0, 1),
        ("4.0", 4.0, 1),
        ("4.0", 4, 0),
        (np.int64(7), "7", 1),
        ("0.5", np.float32(0.5), 1),
        ("True", True, 1),
        ("inf", math.inf, 1),
        ("4", [3, 4], 1),
        ("b", ["a", "b"], 1),
        ("c", np.array(["a", "b"], dtype=object), 0),
    ],
)
def test_numbers_count_as_their_text_and_any_of_several_targets_will_do(prediction, target, expected):
    assert exact_match()([prediction], [target]).scores == [expected]


def test_a_column_of_integers_that_pandas_made_floats_because_of_a_gap_still_matches():
    frame = pd.DataFrame({"prediction": ["4", "5", "6"], "target": [4, None, 7]})
    result = exact_match()(frame["prediction"], frame["target"])
    assert result.scores[0] == 1
    assert math.isnan(result.scores[1])
    assert result.scores[2] == 0
    assert result.justifications == [None, "the target is missing", None]
    assert result.aggregate_results["count"] == 2


@pytest.mark.parametrize("make", [exact_match, token_f1])
@pytest.mark.parametrize(
    ("prediction", "target", "reason"),
    [
        (None, "x", "the prediction is missing"),
        ("x", math.nan, "the target is missing"),
        ("x", pd.NA, "the target is missing"),
        ("x", [], "the target is an empty list"),
        ("x", ["y", None], "the target is missing"),
        ("x", {"secret": 1}, "the target is of type dict, not text"),
        (["x"], "x", "the prediction is of type list, not text"),
        (b"secret", "x", "the prediction is of type bytes, not text"),
    ],
)
def test_a_bad_row_has_no_score_but_a_reason_and_leaves_its_neighbour_alone(make, prediction, target, reason):
    result = make()([prediction, "same"], [target, "same"])
    assert math.isnan(result.scores[0])
    assert result.scores[1] == 1
    assert result.justifications == [reason, None]
    assert result.aggregate_results["mean"] == result.aggregate_results["count"] == 1


@settings(max_examples=300)
@given(st.one_of(st.tuples(ASCII, ASCII), st.tuples(ENGLISH, ENGLISH)))
def test_token_f1_is_squads_on_ascii(pair):
    assert token_f1()([pair[0]], [pair[1]]).scores[0] == pytest.approx(squad_f1(*pair), abs=1e-12)


def test_token_f1_by_hand():
    predictions = ["The cat sat.", "", "", "中文好", "नमस्ते दुनिया", "ＡＢＣ", "cat", "ขาว"]
    targets = ["a cat lay down", "", "x", "中文坏", "नमस्ते", "abc", ["dog", "the cat sat"], "ขาด"]
    expected = [2 * 1 / (2 + 3), 1, 0, 2 * 2 / (3 + 3), 2 * 1 / (2 + 1), 1, 2 * 1 / (1 + 2), 2 * 2 / (3 + 3)]
    assert token_f1()(predictions, targets).scores == pytest.approx(expected)


@given(st.text(max_size=30), st.text(max_size=30))
def test_token_f1_is_symmetric_between_0_and_1_and_1_for_the_same_text(left, right):
    there, back, same = token_f1()([left, right, left], [right, left, left]).scores
    assert there == back
    assert 0 <= there <= 1
    assert same == 1
