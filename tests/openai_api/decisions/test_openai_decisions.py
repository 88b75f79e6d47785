"""OpenAI's Decisions: what is asked is read or refused by place, and answers are what its clients read."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_llm_plugins.errors import InvalidInputError, UnsupportedFeatureError
from mlflow_llm_plugins.openai_api.decisions import (
    DecisionLimits,
    InvalidDecisionError,
    Option,
    TooManyQuestionsError,
    decisions_answer,
    parse_decisions,
    question_chats,
)
from tests.openai_api.decisions.examples import DECISIONS, LIMITS, SECRET, changed, json_values

PREDICATE = {"type": "predicate", "instructions": "It is spam."}
CHOICE = {"type": "choice", "instructions": "Who?", "choices": [{"value": "a"}, {"value": "b"}]}
SCORE = {"type": "score", "instructions": "How bad?", "levels": [{"label": "low"}, {"label": "high"}]}


def ask(*questions, limits=LIMITS):
    return parse_decisions({"input": SECRET, "questions": list(questions)}, limits)


def answer(request, scores, temperatures=None):
    return decisions_answer("tiny", request, scores, 120, temperatures or {})


@pytest.fixture(scope="module")
def openai_decision():
    """What OpenAI's client makes of a body, checked as strictly as its types allow."""
    decision = pytest.importorskip("openai.types.decision").Decision
    return lambda body: decision.model_validate(json.loads(json.dumps(body, allow_nan=False)), strict=True)


@pytest.fixture(scope="module")
def reader():
    return pytest.importorskip("mlflow.genai.judges.decisions")


def test_questions_keep_their_order_and_all_they_say():
    predicate, choice, score = parse_decisions(DECISIONS, LIMITS).questions
    assert (predicate.name, predicate.type, predicate.instructions) == ("refund", "noul", "A refund is asked for.")
    assert choice.options == (Option("billing", "billing: money"), Option(True, "true"), Option("true", "true"))
    assert (score.name, score.options) == (None, (Option("low", "low: can wait"), Option("high", "high")))


def test_instructions_may_be_parts():
    parts = [{"type": "input_text", "text": "Is it"}, {"type": "input_json", "data": {"b": 1, "a": 2}}]
    assert ask({**PREDICATE, "instructions": parts}).questions[0].instructions == 'Is it\n{"a":2,"b":1}'


@pytest.mark.parametrize(
    ("question", "complaint"),
    [
        (SECRET, " must be an object with string keys, got str."),
        ({}, ".type must be one of predicate, choice, score, got NoneType."),
        ({"type": "noul"}, ".type must be one of predicate, choice, score, got 'noul'."),
        ({"type": "predicate"}, ".instructions must be a string, got NoneType."),
        ({**PREDICATE, "instructions": ""}, ".instructions must say what is asked; it is empty."),
        ({**PREDICATE, "name": 5}, ".name must be a string, got int."),
        ({**PREDICATE, "criteria": SECRET}, " has no field 'criteria'; it may have type, name, instructions."),
        ({**CHOICE, "levels": SECRET}, " has no field 'levels'; it may have type, name, instructions, choices."),
        ({**CHOICE, "choices": {"a": "b"}}, ".choices must be a list, got dict."),
        ({**CHOICE, "choices": [{"value": "a"}]}, ".choices must have from 2 to 255 items, got 1."),
        ({**CHOICE, "choices": [{"value": "a"}, SECRET]}, ".choices[1] must be an object with string keys, got str."),
        ({**CHOICE, "choices": [{"value": "a"}, {"value": 1}]}, ".choices[1].value must be a string, got int."),
        (
            {**CHOICE, "choices": [{"label": "a"}] * 2},
            ".choices[0] has no field 'label'; it may have value, des",
        ),
        ({**CHOICE, "choices": [{"value": "a"}] * 2}, ".choices has a value twice; each must be there once."),
        ({**SCORE, "levels": [{"label": "a"}] * 11}, ".levels must have from 2 to 10 items, got 11."),
        ({**SCORE, "levels": ["a", "b"]}, ".levels[0] must be an object with string keys, got str."),
        ({**SCORE, "levels": [{"label": True}] * 2}, ".levels[0].label must be a string, got bool."),
        (
            {**SCORE, "levels": [{"label": "a", "description": 1}] * 2},
            ".levels[0].description must be a string, got int",
        ),
    ],
)
def test_a_bad_question_is_refused_by_place(question, complaint):
    with pytest.raises(InvalidDecisionError) as refusal:
        ask(PREDICATE, question)
    assert str(refusal.value).startswith(f"questions[1]{complaint}")
    assert SECRET not in str(refusal.value)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ([], "The request must be an object with string keys, got list."),
        ({"input": "a"}, "questions must be a list, got NoneType."),
        ({"input": "a", "questions": {"q": PREDICATE}}, "questions must be a list, got dict."),
        ({"input": "a", "questions": []}, "questions must have from 1 to 64 items, got 0."),
        (
            {"questions": [PREDICATE, {"type": "choice"}]},
            "input must be a string or a list of messages, tool calls and outputs, got NoneType. "
            "questions[1].instructions must be a string, got NoneType. "
            "questions[1].choices must be a list, got NoneType.",
        ),
    ],
)
def test_a_bad_request_is_refused_with_all_its_faults(body, complaint):
    with pytest.raises(InvalidDecisionError) as refusal:
        parse_decisions(body, LIMITS)
    assert str(refusal.value) == complaint


def test_too_many_questions_are_an_error_of_their_own():
    with pytest.raises(TooManyQuestionsError, match=r"^questions has 3 questions; at most 2 fit\.$"):
        ask(PREDICATE, CHOICE, SCORE, limits=DecisionLimits(max_questions=2))


def test_images_of_a_question_are_refused():
    with pytest.raises(UnsupportedFeatureError) as refusal:
        ask({**PREDICATE, "instructions": [{"type": "input_image", "image_url": SECRET}]})
    assert str(refusal.value) == "questions[0].instructions[0] is an image; this engine reads text only."


@settings(deadline=None)
@given(changed(DECISIONS) | json_values)
def test_any_json_is_read_or_refused(body):
    complaint = ""
    try:
        request = parse_decisions(body, LIMITS)
    except InvalidInputError as refusal:
        complaint = str(refusal)
    assert SECRET not in complaint
    if complaint:
        return
    for (message,) in question_chats(request):
        message["content"].encode()
    scores = [[-1.0] * len(question.options) for question in request.questions]
    json.dumps(answer(request, scores), ensure_ascii=False, allow_nan=False).encode()


def test_answers_come_in_order_with_typed_values():
    row = [math.log(0.2), math.log(0.7), math.log(0.1)]
    body = answer(parse_decisions(DECISIONS, LIMITS), [[math.log(0.6), math.log(0.2)], row, [-1.0, -1.0]])
    predicate, choice, score = body["answers"]
    assert predicate == {"type": "predicate", "name": "refund", "probability": pytest.approx(0.75)}
    assert choice == {
        "type": "choice",
        "name": "team",
        "choice": True,
        "confidence": pytest.approx((0.7 - 1 / 3) / (2 / 3)),
        "probabilities": [
            {"value": "billing", "probability": pytest.approx(0.2)},
            {"value": True, "probability": pytest.approx(0.7)},
            {"value": "true", "probability": pytest.approx(0.1)},
        ],
    }
    assert score == {
        "type": "score",
        "name": None,
        "score": pytest.approx(0.5),
        "confidence": pytest.approx(0),
        "probabilities": [
            {"value": 0, "label": "low", "probability": pytest.approx(0.5)},
            {"value": 1, "label": "high", "probability": pytest.approx(0.5)},
        ],
    }
    assert body["diagnostics"] == [{"label_mass": pytest.approx(mass)} for mass in (0.8, 1.0, 2 / math.e)]


def test_a_predicate_takes_the_temperature_of_a_noul():
    body = answer(ask(PREDICATE), [[math.log(0.8), math.log(0.2)]], {"noul": 2.0, "choice": 9.0})
    assert body["answers"][0]["probability"] == pytest.approx(2 / 3)


def test_openai_s_types_take_every_answer(openai_decision):
    decision = openai_decision(answer(ask(PREDICATE, CHOICE, SCORE), [[-1.0, -2.0]] * 3))
    assert [answer.type for answer in decision.answers] == ["predicate", "choice", "score"]
    assert (decision.model, decision.answers[1].choice, decision.answers[2].probabilities[1].label) == (
        "tiny",
        "a",
        "high",
    )
    assert (decision.usage.input_tokens, decision.usage.output_tokens, decision.usage.total_tokens) == (120, 0, 120)
    assert decision.usage.input_tokens_details.cached_tokens == 0
    assert decision.usage.output_tokens_details.reasoning_tokens == 0


@settings(deadline=None)
@given(row=st.lists(st.floats(-50, 0), min_size=4, max_size=4), no=st.floats(-50, 0))
def test_mlflow_s_strict_reader_takes_every_answer(reader, openai_decision, row, no):
    named = {"name": "evaluation", "instructions": SECRET}
    values = [{"value": value} for value in ("true", True, False, "é")]
    for question, scores in (
        ({"type": "predicate", **named}, [row[0], no]),
        ({"type": "choice", "choices": values, **named}, row),
    ):
        sent = openai_decision(answer(ask(question), [scores]))
        value, _ = reader._parse_decision_answer(sent.answers[0], question)
        read = sent.answers[0]
        assert value == (read.probability >= 0.5 if question["type"] == "predicate" else read.choice)
        assert reader._usage_metadata(sent.usage)
