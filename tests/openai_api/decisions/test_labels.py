"""Labels are short, in order, and none begins another."""

from __future__ import annotations

import pytest

from mlflow_llm_plugins.openai_api.decisions.labels import MOST_LEVELS, MOST_OPTIONS, question_labels


def test_a_noul_is_answered_with_yes_or_no():
    assert question_labels("noul", 2) == ("Yes", "No")


@pytest.mark.parametrize(
    ("count", "first", "last"), [(1, "A", "A"), (4, "A", "D"), (26, "A", "Z"), (27, "AA", "BA"), (255, "AA", "JU")]
)
def test_options_have_letters_and_above_26_all_have_two(count, first, last):
    labels = question_labels("choice", count)
    assert (labels[0], labels[-1], len(labels)) == (first, last, count)


def test_levels_have_digits_from_0():
    assert question_labels("score", 10) == tuple("0123456789")


@pytest.mark.parametrize(
    ("question_type", "counts"), [("choice", (1, 26, 27, 255, MOST_OPTIONS)), ("score", range(1, MOST_LEVELS + 1))]
)
def test_no_label_begins_another(question_type, counts):
    for count in counts:
        labels = question_labels(question_type, count)
        assert len(set(labels)) == count
        assert len({len(label) for label in labels}) == 1
