"""System One: what is asked is read or refused by place, and answers are what its clients read."""

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
    Question,
    TooManyQuestionsError,
    parse_systemone,
    question_chats,
    systemone_answer,
)
from tests.openai_api.decisions.examples import LIMITS, SECRET, SYSTEMONE, changed, json_values

NOUL = {"type": "noul", "instructions": "Spam?"}


def ask(question, name="q", limits=LIMITS):
    return parse_systemone({"state": SECRET, "questions": {name: question}}, limits)


def answer(request, scores, temperatures=None):
    return systemone_answer("tiny", request, scores, 120, temperatures or {})


def test_questions_keep_names_order_and_all_they_say():
    request = parse_systemone(SYSTEMONE, LIMITS)
    assert request.state == '{"channel":"mail","message":"I was charged twice."}'
    assert request.questions == (
        Question(
            name="refund",
            type="noul",
            instructions="Is a refund asked for?",
            options=(Option(True), Option(False)),
        ),
        Question(
            name="team",
            type="choice",
            instructions="Who answers?",
            options=(Option("billing", "billing: money"), Option("tech", "tech")),
        ),
        Question(
            name="urgency",
            type="score",
            instructions="How urgent?",
            options=(
                Option("can wait", "can wait"),
                Option({"in": "a week"}, '{"in":"a week"}'),
                Option("now", "now"),
            ),
        ),
    )


@pytest.mark.parametrize(
    ("state", "text"), [("", ""), ("a", "a"), ({"b": 1, "a": [None]}, '{"a":[null],"b":1}'), ([1, "é"], '[1,"é"]')]
)
def test_a_state_is_text_or_one_text_of_its_json(state, text):
    assert parse_systemone({"state": state, "questions": {"q": NOUL}}, LIMITS).state == text


def test_instructions_may_be_json_and_nulls_are_not_given():
    question = {"type": "noul", "instructions": {"task": "spam?"}, "criteria": None, "examples": None}
    assert ask(question).questions[0].instructions == '{"task":"spam?"}'
    question = {"type": "noul", "instructions": None, "criteria": {"true": "an ad", "false": None}}
    assert ask(question).questions[0].options == (Option(True, "an ad"), Option(False))


@pytest.mark.parametrize(
    ("question", "complaint"),
    [
        (SECRET, " must be an object with string keys, got str."),
        ({}, ".type must be one of noul, choice, score, got NoneType."),
        ({"type": "nool"}, ".type must be one of noul, choice, score, got 'nool'. Did you mean 'noul'?"),
        ({"type": "predicate"}, ".type must be one of noul, choice, score, got 'predicate'."),
        ({**NOUL, "critera": SECRET}, " has no field 'critera'; it may have type, instructions, criteria. Did you"),
        ({**NOUL, "instructions": 7}, ".instructions must be a string, an object or an array, got int."),
        ({**NOUL, "criteria": []}, ".criteria must be an object with string keys, got list."),
        (
            {**NOUL, "criteria": {"True": SECRET}},
            ".criteria has no field 'True'; it may have true, false. Did you",
        ),
        ({**NOUL, "criteria": {"true": 1}}, ".criteria.true must be a string, an object or an array, got int."),
        ({"type": "noul"}, " asks nothing: a noul needs instructions, or criteria of true or false."),
        ({"type": "choice"}, ".criteria must be an object with string keys, got NoneType."),
        ({"type": "choice", "criteria": ["a", "b"]}, ".criteria must be an object with string keys, got list."),
        ({"type": "choice", "criteria": {}}, ".criteria must have from 1 to 255 items, got 0."),
        ({"type": "choice", "criteria": {"a": 5}}, ".criteria['a'] must be a string, an object or an array, got int."),
        ({"type": "score", "criteria": {"a": "b"}}, ".criteria must be a list, got dict."),
        ({"type": "score", "criteria": []}, ".criteria must have from 1 to 10 items, got 0."),
        ({"type": "score", "criteria": ["a"] * 11}, ".criteria must have from 1 to 10 items, got 11."),
        (
            {"type": "score", "criteria": ["a", None]},
            ".criteria[1] must be a string, an object or an array, got NoneType",
        ),
    ],
)
def test_a_bad_question_is_refused_by_place(question, complaint):
    with pytest.raises(InvalidDecisionError) as refusal:
        ask(question)
    assert str(refusal.value).startswith(f"questions['q']{complaint}")
    assert SECRET not in str(refusal.value)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (None, "The request must be an object with string keys, got NoneType."),
        ({"state": "a"}, "questions must be an object with string keys, got NoneType."),
        ({"state": "a", "questions": [NOUL]}, "questions must be an object with string keys, got list."),
        ({"state": "a", "questions": {}}, "questions must have at least one question, got an empty object."),
        ({"questions": {"q": NOUL}}, "state must be a string, an object or an array, got NoneType."),
        ({"state": True, "questions": {"q": NOUL}}, "state must be a string, an object or an array, got bool."),
    ],
)
def test_a_bad_request_is_refused_by_field(body, complaint):
    with pytest.raises(InvalidDecisionError) as refusal:
        parse_systemone(body, LIMITS)
    assert str(refusal.value) == complaint


def test_all_faults_are_told_at_once():
    questions = {"a": {"type": "score"}, "b": NOUL, "c": {"type": "choice", "instructions": 1, "criteria": []}}
    with pytest.raises(InvalidDecisionError) as refusal:
        parse_systemone({"state": 1, "questions": questions}, LIMITS)
    assert str(refusal.value) == (
        "state must be a string, an object or an array, got int. "
        "questions['a'].criteria must be a list, got NoneType. "
        "questions['c'].instructions must be a string, an object or an array, got int. "
        "questions['c'].criteria must be an object with string keys, got list."
    )


def test_limits_are_kept_to_the_item():
    limits = DecisionLimits(max_questions=2, max_options=3, max_levels=2, max_depth=1)
    choice = {"type": "choice", "criteria": dict.fromkeys("abc")}
    score = {"type": "score", "criteria": ["a", ["b"]]}
    body = {"state": {"a": 1}, "questions": {"c": choice, "s": score}}
    assert len(parse_systemone(body, limits).questions) == 2
    with pytest.raises(TooManyQuestionsError, match=r"^questions has 3 questions; at most 2 fit\.$"):
        parse_systemone({**body, "questions": {**body["questions"], "n": SECRET}}, limits)
    with pytest.raises(InvalidDecisionError, match=r"criteria must have from 1 to 3 items, got 4\.$"):
        ask({"type": "choice", "criteria": dict.fromkeys("abcd")}, limits=limits)
    with pytest.raises(InvalidDecisionError, match=r"^state has objects and arrays nested deeper than 1\.$"):
        parse_systemone({**body, "state": {"a": []}}, limits)


def test_boxes_among_good_questions_are_refused_with_the_reason():
    with pytest.raises(UnsupportedFeatureError) as refusal:
        parse_systemone({"state": "a", "questions": {"q": NOUL, "b": {"type": "box", "instructions": SECRET}}}, LIMITS)
    assert str(refusal.value) == "questions['b'].type 'box' is not supported: it asks for a place in an image."


def test_a_long_name_is_cut_in_the_message():
    with pytest.raises(InvalidDecisionError) as refusal:
        ask(SECRET, name="n" * 10_000)
    assert len(str(refusal.value)) < 200


@settings(deadline=None)
@given(changed(SYSTEMONE) | json_values)
def test_any_json_is_read_or_refused_without_echo(body):
    complaint = ""
    try:
        request = parse_systemone(body, LIMITS)
    except InvalidInputError as refusal:
        complaint = str(refusal)
    assert SECRET not in complaint
    if complaint:
        return
    for (message,) in question_chats(request):
        message["content"].encode()
    scores = [[-1.0] * len(question.options) for question in request.questions]
    json.dumps(answer(request, scores), ensure_ascii=False, allow_nan=False).encode()


def test_answers_keep_names_and_order_and_carry_nothing_else():
    request = parse_systemone(SYSTEMONE, LIMITS)
    scores = [[math.log(0.6), math.log(0.2)], [math.log(0.1), math.log(0.4)], [math.log(p) for p in (0.1, 0.2, 0.7)]]
    body = answer(request, scores)
    assert list(body) == ["model", "answers", "usage", "diagnostics"]
    assert body["model"] == "tiny"
    assert list(body["answers"]) == ["refund", "team", "urgency"]
    assert body["answers"]["refund"] == {"type": "noul", "noul": pytest.approx(0.75)}
    assert body["answers"]["team"] == {
        "type": "choice",
        "choice": "tech",
        "confidence": pytest.approx(0.6),
        "probabilities": pytest.approx({"billing": 0.2, "tech": 0.8}),
    }
    assert body["answers"]["urgency"] == {
        "type": "score",
        "score": pytest.approx(1.6),
        "legend": {"0": "can wait", "1": {"in": "a week"}, "2": "now"},
        "confidence": pytest.approx(1 - 0.4 / (2 / 3)),
        "probabilities": pytest.approx({"0": 0.1, "1": 0.2, "2": 0.7}),
    }
    assert body["usage"] == {"input_tokens": 120, "output_tokens": 0}
    assert body["diagnostics"] == {
        "refund": {"label_mass": pytest.approx(0.8)},
        "team": {"label_mass": pytest.approx(0.5)},
        "urgency": {"label_mass": pytest.approx(1.0)},
    }


def test_each_type_has_its_own_temperature():
    request = parse_systemone(SYSTEMONE, LIMITS)
    row = [math.log(0.8), math.log(0.2)]
    answers = answer(request, [row, row, [-1.0, -1.0, -1.0]], {"noul": 2.0})["answers"]
    assert answers["refund"]["noul"] == pytest.approx(2 / 3)
    assert answers["team"]["probabilities"]["billing"] == pytest.approx(0.8)


def test_scores_of_another_request_are_no_answer():
    with pytest.raises(ValueError, match="zip"):
        answer(parse_systemone(SYSTEMONE, LIMITS), [[-1.0, -1.0]])


logprobs = st.floats(-50, 0)
names = st.text(st.characters(codec="utf-8"), min_size=1)


@pytest.fixture(scope="module")
def reader():
    return pytest.importorskip("mlflow.genai.judges.typesafe")


@settings(deadline=None)
@given(scores=st.tuples(logprobs, logprobs))
def test_mlflow_s_strict_reader_takes_every_noul(reader, scores):
    sent = json.loads(json.dumps(answer(ask(NOUL, name="evaluation"), [scores]), allow_nan=False))
    value, _, input_tokens, output_tokens = reader._parse_response(sent, reader._NoulSpec())
    assert (value, input_tokens, output_tokens) == (sent["answers"]["evaluation"]["noul"] >= 0.5, 120, 0)


@settings(deadline=None)
@given(scored=st.dictionaries(names, logprobs, min_size=1, max_size=30))
def test_mlflow_s_strict_reader_takes_every_choice(reader, scored):
    request = ask({"type": "choice", "criteria": dict.fromkeys(scored)}, name="evaluation")
    sent = json.loads(json.dumps(answer(request, [list(scored.values())]), allow_nan=False))
    value, *_ = reader._parse_response(sent, reader._ChoiceSpec(choices={name: name for name in scored}))
    assert scored[value] == pytest.approx(max(scored.values()))
