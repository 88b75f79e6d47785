"""Fields are read by type; messages name places, never what was said there."""

from __future__ import annotations

import json
from functools import partial

import pytest
from hypothesis import given, settings

from mlflow_llm_plugins.errors import InvalidInputError, UnsupportedFeatureError
from mlflow_llm_plugins.openai_api.decisions import InvalidDecisionError
from mlflow_llm_plugins.openai_api.decisions.fields import (
    a_body,
    a_string,
    an_object,
    check_fields,
    content,
    items,
    one_of,
    question_type,
)
from tests.openai_api.decisions.examples import SECRET, json_values

HALF_A_PAIR = "\ud800"


def nested(depth):
    return [nested(depth - 1)] if depth > 1 else []


@pytest.mark.parametrize(
    ("read", "complaint"),
    [
        (partial(an_object, "x", SECRET), "x must be an object with string keys, got str."),
        (partial(an_object, "x", {1: SECRET}), "x must be an object with string keys, got dict."),
        (partial(a_string, "x", None), "x must be a string, got NoneType."),
        (partial(a_string, "x", SECRET + HALF_A_PAIR), "x has half a surrogate pair, which is no character."),
        (partial(items, "x", SECRET, 1, 3), "x must be a list, got str."),
        (partial(items, "x", [], 1, 3), "x must have from 1 to 3 items, got 0."),
        (partial(items, "x", [SECRET] * 4, 1, 3), "x must have from 1 to 3 items, got 4."),
        (partial(one_of, "x", [SECRET], ["a", "b"]), "x must be one of a, b, got list."),
        (partial(one_of, "x", "scroe", ["score"]), "x must be one of score, got 'scroe'. Did you mean 'score'?"),
        (partial(one_of, "x", SECRET, ["score"]), "x must be one of score, got str."),
        (partial(content, "x", 7, 3), "x must be a string, an object or an array, got int."),
        (partial(content, "x", {"a": float("nan")}, 3), "x is no JSON, which has finite numbers and string keys."),
        (partial(content, "x", {"a": object()}, 3), "x is no JSON, which has finite numbers and string keys."),
        (partial(content, "x", {"a": HALF_A_PAIR}, 3), "x has half a surrogate pair, which is no character."),
        (partial(content, "x", nested(4), 3), "x has objects and arrays nested deeper than 3."),
        (partial(content, "x", nested(500), 3), "x has objects and arrays nested deeper than 3."),
    ],
)
def test_a_value_that_does_not_fit_is_refused_without_being_shown(read, complaint):
    with pytest.raises(InvalidDecisionError) as refusal:
        read()
    assert str(refusal.value) == complaint


def test_content_as_deep_as_allowed_is_read():
    assert content("x", nested(3), 3) == "[[[]]]"


def test_equal_objects_have_one_text():
    assert content("x", {"b": [1, "é"], "a": None}, 3) == content("x", {"a": None, "b": [1, "é"]}, 3)
    assert content("x", {"b": [1, "é"], "a": None}, 3) == '{"a":null,"b":[1,"é"]}'


@settings(deadline=None)
@given(json_values)
def test_content_is_read_back_as_it_was_or_refused(value):
    try:
        text = content("x", value, 10)
    except InvalidInputError:
        return
    assert (text if isinstance(value, str) else json.loads(text)) == value


def test_unknown_fields_are_named_with_what_was_meant():
    with pytest.raises(InvalidDecisionError) as refusal:
        check_fields("questions['x']", ["type", "critera", "Instructions"], ("type", "instructions", "criteria"))
    assert str(refusal.value) == (
        "questions['x'] has no field 'critera', 'Instructions'; it may have type, instructions, criteria. "
        "Did you mean 'criteria'? Did you mean 'instructions'?"
    )


def test_many_and_long_unknown_fields_make_a_short_message():
    with pytest.raises(InvalidDecisionError, match=r", \.\.\.; it may have type\.") as refusal:
        check_fields("x", [f"{i}" * 100_000 for i in range(9)], ("type",))
    assert len(str(refusal.value)) < 400


def test_boxes_are_refused_for_what_they_are():
    with pytest.raises(
        UnsupportedFeatureError, match=r"^x 'box' is not supported: it asks for a place in an image\.$"
    ):
        question_type("x", "box", ["noul"])


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("stream", True, "there is nothing to stream, as all answers are read at once"),
        ("images", [SECRET], "this engine reads text only"),
        ("assets", {"a": SECRET}, "this engine reads text only"),
        ("instructions", SECRET, "instructions belong to each question"),
    ],
)
def test_what_would_change_the_answers_and_cannot_be_honoured_is_refused(field, value, reason):
    with pytest.raises(UnsupportedFeatureError) as refusal:
        a_body({field: value})
    assert str(refusal.value) == f"{field} is not supported: {reason}."


def test_other_fields_and_those_that_ask_for_nothing_are_left_alone():
    body = {"stream": False, "images": [], "assets": None, "instructions": "", "store": True, "model": 7}
    assert a_body(body) == body


def test_a_body_that_is_no_object_is_refused():
    with pytest.raises(InvalidDecisionError, match=r"^The request must be an object with string keys, got list\.$"):
        a_body([SECRET])
