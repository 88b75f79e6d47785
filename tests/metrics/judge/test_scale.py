"""Scales as users write them, and what is refused."""

import pytest

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.metrics.judge.scale import described, parse_scale


@pytest.mark.parametrize("scale", [(1, 5), [1, 5], range(1, 6), "1-5", " 1..5 ", "1 to 5", [5, 4, 3, 2, 1], "1–5"])
def test_levels_may_be_written_in_many_ways(scale):
    parsed = parse_scale(scale)
    assert (parsed.kind, parsed.labels, parsed.values, parsed.span) == (
        "score",
        ["1", "2", "3", "4", "5"],
        [1.0, 2.0, 3.0, 4.0, 5.0],
        4.0,
    )


def test_a_span_may_go_below_zero():
    assert parse_scale("-1..1").values == [-1.0, 0.0, 1.0]


def test_yes_counts_one_and_no_nothing():
    parsed = parse_scale(" YES/no ")
    assert (parsed.kind, parsed.labels, parsed.values) == ("yes_no", ["Yes", "No"], [1.0, 0.0])


def test_choices_with_numbers_have_an_order_and_those_without_have_none():
    counted, free = parse_scale({" bad ": -1, "good": 2.5}), parse_scale(["red", "green", "blue"])
    assert (counted.kind, counted.labels, counted.values, counted.span) == ("choice", ["bad", "good"], [-1, 2.5], 3.5)
    assert (free.kind, free.labels, free.values, free.span) == ("choice", ["red", "green", "blue"], None, 0)


def test_labels_may_have_the_invisible_joiners_that_words_and_emoji_need():
    assert parse_scale(["نمی\u200cدانم", "👩\u200d🔬"]).labels == ["نمی\u200cدانم", "👩\u200d🔬"]
    with pytest.raises(InvalidInputError, match="a choice must be a text of one line"):
        parse_scale(["\u200d", "b"])


def test_the_best_option_follows_the_direction():
    scale = parse_scale({"so so": 1, "good": 2, "bad": 0})
    assert scale.best(True).label == "good"
    assert scale.best(False).label == "bad"
    assert parse_scale(["red", "green"]).best(True) is None


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (None, "scale must be a span such as (1, 5) or '1-5', a list of labels, a dictionary"),
        (5, "got 5."),
        ("good", "got 'good'."),
        ([], "got []."),
        ([1, "good"], "got [1, 'good']."),
        ([True, False], "got [True, False]."),
        ([3], "scale: a span goes from a lower to a higher number, got (3, None)."),
        ((5, 1), "scale: a span goes from a lower to a higher number, got (5, 1)."),
        ("1-1000", "scale must have from 2 to 20 levels, got 21."),
        (["only"], "scale must have from 2 to 50 choices, got 1."),
        ([str(i) for i in range(51)], "scale must have from 2 to 50 choices, got 51."),
        (["Good", "good"], "scale: choices must differ in more than upper and lower case, got ['Good', 'good']."),
        (["a\nb", "c"], "must be a text of one line with at most 80 characters, got 'a\\nb'."),
        (["a" * 81, "c"], "must be a text of one line with at most 80 characters"),
        (["", "c"], "must be a text of one line with at most 80 characters, got ''."),
        (
            {"good": "when it is", "bad": "else"},
            "scale: what 'good' counts must be a finite number, got 'when it is'.",
        ),
        ({"good": float("nan"), "bad": 0}, "scale: what 'good' counts must be a finite number, got nan."),
        ({"good": True, "bad": 0}, "scale: what 'good' counts must be a finite number, got True."),
        ({"good": 1, "fine": 1}, "scale: at least two choices must count different numbers, got [1, 1]."),
    ],
)
def test_other_scales_are_refused_with_what_is_allowed(scale, message):
    with pytest.raises(InvalidInputError) as error:
        parse_scale(scale)
    assert message in str(error.value)


def test_a_rubric_describes_options_by_label_or_number():
    scale = described(parse_scale((1, 3)), {1: " bad ", "3": "good"})
    assert [option.description for option in scale.options] == ["bad", "", "good"]


@pytest.mark.parametrize(
    ("rubric", "message"),
    [
        ({"Yess": "right"}, "rubric: 'Yess' is no option of the scale. Options: Yes, No."),
        ({"Yes": ""}, "rubric: the description of 'Yes' must be a text, got ''."),
        ({"No": 3}, "rubric: the description of 'No' must be a text, got 3."),
    ],
)
def test_a_rubric_that_does_not_fit_the_scale_is_refused(rubric, message):
    with pytest.raises(InvalidInputError) as error:
        described(parse_scale("yes/no"), rubric)
    assert str(error.value) == message
