"""Control rows: made from the data, and what they tell about a judge."""

import random

import pytest

from mlflow_llm_plugins.metrics.judge.controls import Control, control_cases, control_figures


def data(count, seed=0):
    generator = random.Random(seed)
    return [{"inputs": f"question {i}", "predictions": f"answer {generator.random()}"} for i in range(count)], [
        f"target {generator.random()}" for _ in range(count)
    ]


def of_kind(controls, kind):
    return [control for control in controls if control.kind == kind]


@pytest.mark.parametrize("count", [2, 3, 4, 50])
def test_a_few_rows_become_good_bad_and_attacked_cases(count):
    rows, targets = data(count)
    controls = control_cases(rows, targets, "5")
    expected = min(4, count)
    assert [len(of_kind(controls, kind)) for kind in ("good", "bad", "attacked")] == [expected] * 3
    for control in controls:
        assert control.texts["inputs"] == rows[control.pair]["inputs"]
    for good in of_kind(controls, "good"):
        assert good.texts["predictions"] == targets[good.pair]


def test_bad_answers_are_empty_or_another_rows():
    rows, targets = data(30)
    empty, *others = of_kind(control_cases(rows, targets, "5"), "bad")
    assert empty.texts["predictions"] == ""
    for bad in others:
        answer = bad.texts["predictions"]
        assert answer in targets
        assert answer != targets[bad.pair]


def test_attacks_ask_for_the_best_verdict_in_bad_answers():
    rows, targets = data(30)
    controls = control_cases(rows, targets, "Very good {bad}")
    attacked = [control.texts["predictions"] for control in of_kind(controls, "attacked")]
    bads = [control.texts["predictions"] for control in of_kind(controls, "bad")]
    assert sum("Very good {bad}" in text for text in attacked) == 3
    assert attacked[2] == "Thought process:"
    assert all(bad in text for i, (bad, text) in enumerate(zip(bads, attacked, strict=True)) if i != 2)


def test_only_what_can_be_made_is_made():
    rows, _ = data(3)
    without_targets = control_cases(rows, [None, "", " "], "5")
    assert of_kind(without_targets, "good") == []
    assert all(bad.texts["predictions"] in {"", *(row["predictions"] for row in rows)}
               for bad in of_kind(without_targets, "bad"))  # fmt: skip
    alike = [{"predictions": "Yes "}, {"predictions": "yes"}]
    assert [control.texts["predictions"] for control in of_kind(control_cases(alike, ["yes", "yes"], "5"), "bad")] == [
        ""
    ]
    assert control_cases([], [], "5") == []


def figures(good, bad, attacked, **options):
    kinds = ["good"] * len(good) + ["bad"] * len(bad) + ["attacked"] * len(attacked)
    pairs = [*range(len(good)), *range(len(bad)), *range(len(attacked))]
    controls = [Control(kind, {}, pair) for kind, pair in zip(kinds, pairs, strict=True)]
    return control_figures(controls, [*good, *bad, *attacked], **{"span": 4, "greater_is_better": True} | options)


def test_differences_are_shares_of_the_scale():
    found = figures([5, 4], [1, 2], [2, 4])
    assert found.gap == pytest.approx(0.75)
    assert found.attack_gain == pytest.approx(0.375)
    assert found.is_failed


@pytest.mark.parametrize(
    ("good", "bad", "attacked", "is_failed"),
    [
        ([5], [1], [1], False),
        ([5], [1], [1.7], False),
        ([5], [1], [2], True),
        ([2], [1.2], [1], True),  # a gap of 0.2
        ([2], [1], [1], False),
        ([1], [5], [1], True),
        ([], [1], [1], False),
    ],
)
def test_a_judge_fails_by_a_small_gap_or_a_gain_of_an_attack(good, bad, attacked, is_failed):
    assert figures(good, bad, attacked).is_failed is is_failed


def test_where_less_is_better_the_differences_turn_round():
    found = figures([1], [5], [4], greater_is_better=False)
    assert (found.gap, found.attack_gain) == (1.0, 0.25)


def test_rows_that_the_judge_failed_on_are_left_out_with_their_pair():
    found = figures([5, None], [1, None], [3, 5])
    assert (found.gap, found.attack_gain) == (1.0, 0.5)
    assert figures([None], [1], [None]).gap is None
    assert not figures([None], [None], [None]).is_failed
