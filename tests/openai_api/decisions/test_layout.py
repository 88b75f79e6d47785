"""Chats end with a line that names the labels, and begin with what prompts can share."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.openai_api import parse_messages
from mlflow_llm_plugins.openai_api.decisions import parse_decisions, parse_systemone, question_chats
from tests.openai_api.decisions.examples import DECISIONS, LIMITS, SYSTEMONE

STATE = 'State:\n{"channel":"mail","message":"I was charged twice."}'


def texts(request, layout="auto"):
    return [message["content"] for (message,) in question_chats(request, layout)]


def ask(question, state="a state"):
    return parse_systemone({"state": state, "questions": {"q": question}}, LIMITS)


def test_several_questions_stand_behind_their_state():
    assert texts(parse_systemone(SYSTEMONE, LIMITS)) == [
        f"{STATE}\n\nIs a refund asked for?\nAnswer Yes or No only.",
        f"{STATE}\n\nWho answers?\nA. billing: money\nB. tech\n"
        "Answer with the letter of the option that fits best (A to B) only.",
        f'{STATE}\n\nHow urgent?\n0. can wait\n1. {{"in":"a week"}}\n2. now\n'
        "Answer with the digit of the level that fits best (0 to 2) only.",
    ]


def test_a_single_question_stands_before_its_state():
    question = {"type": "noul", "instructions": "Spam?", "criteria": {"true": "an ad", "false": {"a": "letter"}}}
    assert texts(ask(question)) == [
        'Spam?\nYes: an ad\nNo: {"a":"letter"}\n\nState:\na state\n\nAnswer Yes or No only.'
    ]


def test_the_input_of_decisions_is_called_so():
    assert texts(parse_decisions(DECISIONS, LIMITS)) == [
        "Input:\nI was charged twice.\n\nA refund is asked for.\nAnswer Yes or No only.",
        "Input:\nI was charged twice.\n\nWho answers?\nA. billing: money\nB. true\nC. true\n"
        "Answer with the letter of the option that fits best (A to C) only.",
        "Input:\nI was charged twice.\n\nHow urgent?\n0. low: can wait\n1. high\n"
        "Answer with the digit of the level that fits best (0 to 1) only.",
    ]


@pytest.mark.parametrize(("count", "span"), [(1, "letter of the option that fits best (A)"), (27, "(AA to BA)")])
def test_the_last_line_names_the_labels_that_there_are(count, span):
    (text,) = texts(ask({"type": "choice", "criteria": {f"o{i}": None for i in range(count)}}))
    assert span in text.splitlines()[-1]
    assert ("two letters" in text.splitlines()[-1]) == (count > 26)


def test_questions_without_instructions_leave_no_empty_line():
    (text,) = texts(ask({"type": "score", "criteria": ["low", "high"]}))
    assert text.startswith("0. low\n1. high\n\nState:\n")


def test_a_layout_can_be_pinned():
    many, one = parse_systemone(SYSTEMONE, LIMITS), ask({"type": "noul", "instructions": "Spam?"})
    assert texts(many, "question_first")[0] == f"Is a refund asked for?\n\n{STATE}\n\nAnswer Yes or No only."
    assert texts(one, "state_first") == ["State:\na state\n\nSpam?\nAnswer Yes or No only."]


def test_an_unknown_layout_is_refused_at_once():
    with pytest.raises(InvalidInputError) as refusal:
        question_chats(parse_systemone(SYSTEMONE, LIMITS), "rubric_first")
    assert str(refusal.value) == "layout must be one of auto, state_first, question_first, got 'rubric_first'."


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8")))
def test_questions_of_one_request_share_their_state(state):
    request = parse_systemone({**SYSTEMONE, "state": state}, LIMITS)
    assert all(text.startswith(f"State:\n{state}\n\n") for text in texts(request))


@settings(deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8")), min_size=2, max_size=4))
def test_requests_with_one_question_share_it(states):
    question = {"type": "choice", "instructions": "Who?", "criteria": {"a": "x", "b": None}}
    beginning = "Who?\nA. a: x\nB. b\n\nState:\n"
    assert all(texts(ask(question, state))[0].startswith(beginning + state) for state in states)


def test_chats_are_what_the_renderer_reads():
    for chat in question_chats(parse_systemone(SYSTEMONE, LIMITS)):
        assert parse_messages(list(chat)) == chat
