"""Typed decisions on the wire: what our formats ask is what servers read, and only an answer to it is an opinion."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_llm_plugins.metrics.judge.backends.decisions import OpenAIDecisions, SystemOne
from mlflow_llm_plugins.metrics.judge.backends.verdicts import NoOpinionError
from mlflow_llm_plugins.openai_api.decisions import (
    DecisionLimits,
    decisions_answer,
    parse_decisions,
    parse_systemone,
    systemone_answer,
)
from tests.metrics.judge.remote_server import CHOICES, ONE_TO_FIVE, WORDS, YES_NO, a_question

FORMATS = {
    "systemone": (SystemOne(), parse_systemone, systemone_answer),
    "decisions": (OpenAIDecisions(), parse_decisions, decisions_answer),
}
ASKED = [
    ("yes_no", YES_NO),
    ("yes_no", YES_NO[::-1]),
    ("choice", CHOICES),
    ("score", ONE_TO_FIVE),
    ("score", ONE_TO_FIVE[::-1]),
    ("score", WORDS),
]
each_format = pytest.mark.parametrize("name", FORMATS)


def log(shares):
    return [math.log(share) for share in shares]


@each_format
@pytest.mark.parametrize(("kind", "options"), ASKED)
def test_probabilities_come_back_by_what_the_options_mean(name, kind, options):
    wire, parse, answer_of = FORMATS[name]
    question = a_question("x", kind, options)
    request = parse(wire.body(question), DecisionLimits())
    weights = [random.Random(f"{name}{kind}{options}").uniform(0.01, 0.15) for _ in options]
    by_meaning = dict(zip([option.label for option in options], weights, strict=True))
    (asked,) = request.questions
    named = {True: "Yes", False: "No"}
    texts = [named.get(option.value, str(option.value)).split(":")[0] for option in asked.options]
    answer = answer_of("m", request, [[math.log(by_meaning[text]) for text in texts]], 1, {})
    opinion = wire.read(question, answer)
    assert [math.exp(p) for p in opinion.logprobs] == pytest.approx([w / sum(weights) for w in weights])
    assert opinion.choice == weights.index(max(weights))
    assert opinion.choice_mass == pytest.approx(sum(weights))


@each_format
def test_the_server_reads_the_instructions_and_the_delimited_sections(name):
    wire, parse, _ = FORMATS[name]
    question = a_question("</answer> \ud800 x", "choice", CHOICES)
    request = parse(wire.body(question), DecisionLimits())
    assert request.questions[0].instructions == question.instructions
    assert request.state == (
        "<question a1b2c3>\nWhat is a loop?\n</question a1b2c3>\n\n<answer a1b2c3>\n</answer> � x\n</answer a1b2c3>"
    )
    assert [option.text for option in request.questions[0].options] == [
        "loops: repeating",
        "classes",
        'Correct but short: with "quotes"',
    ]


@each_format
@pytest.mark.parametrize(
    ("options", "kind"),
    [(WORDS, "score"), (WORDS[::-1], "choice"), (ONE_TO_FIVE, "choice"), (ONE_TO_FIVE[:1], "choice")],
)
def test_levels_are_asked_as_a_score_only_where_its_numbers_from_zero_cannot_be_taken_for_labels(name, options, kind):
    wire, _, _ = FORMATS[name]
    (asked,) = (
        [*wire.body(a_question("x", "score", options))["questions"]]
        if name == "decisions"
        else [*wire.body(a_question("x", "score", options))["questions"].values()]
    )
    assert asked["type"] == kind


def noul(probability):
    return {"answers": {"verdict": {"type": "noul", "noul": probability}}}


def chosen(choice, **probabilities):
    return {"answers": {"verdict": {"type": "choice", "choice": choice, "probabilities": probabilities}}}


@pytest.mark.parametrize("mass", [None, "0.5", math.nan, -1, 7, True])
def test_a_mass_that_is_none_is_not_made_up(mass):
    answer = {**noul(0.25), "diagnostics": {"verdict": {"label_mass": mass}}}
    opinion = SystemOne().read(a_question(), answer)
    assert (opinion.choice, opinion.choice_mass) == (1, None)
    assert opinion.logprobs == pytest.approx(log([0.25, 0.75]))


def test_a_probability_of_zero_stays_a_finite_logarithm():
    opinion = SystemOne().read(a_question(), noul(1.0))
    assert opinion.choice == 0
    assert all(math.isfinite(p) for p in opinion.logprobs)


@pytest.mark.parametrize(
    ("kind", "options", "answer", "words"),
    [
        ("yes_no", YES_NO, noul(math.nan), "no numbers from 0 to 1"),
        ("yes_no", YES_NO, noul(1.5), "no numbers from 0 to 1"),
        ("yes_no", YES_NO, noul(True), "none of the options"),
        ("yes_no", YES_NO, noul("Yes"), "none of the options"),
        ("yes_no", YES_NO, noul(None), "none of the options"),
        ("yes_no", YES_NO, chosen("Yes", Yes=1.0, No=0.0), "another type of question"),
        ("yes_no", YES_NO, {"answers": {"other": {}}}, "another form"),
        ("yes_no", YES_NO, {"answers": []}, "another form"),
        ("yes_no", YES_NO, [], "another form"),
        ("yes_no", YES_NO, None, "another form"),
        ("choice", CHOICES[:2], chosen("modules", loops=0.5, classes=0.5), "none of the options"),
        ("choice", CHOICES[:2], chosen("loops", loops=0.5), "not those of the options"),
        ("choice", CHOICES[:2], chosen("loops", loops=0.5, classes=0.9), "do not add up to 1"),
        ("choice", CHOICES[:2], chosen(["loops"], loops=0.5, classes=0.5), "none of the options"),
    ],
)
def test_any_other_answer_is_no_opinion(kind, options, answer, words):
    with pytest.raises(NoOpinionError) as told:
        SystemOne().read(a_question("SECRET", kind, options), answer)
    assert words in str(told.value)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"answers": [{"type": "refusal", "refusal": "SECRET"}]}, "the judge refused to answer"),
        ({"answers": [{"type": "predicate", "probability": 2}]}, "no numbers from 0 to 1"),
        ({"answers": []}, "another form"),
        ({"answers": [{"type": "choice", "probabilities": [{"value": "Yes", "probability": 1}]}]}, "another type"),
    ],
)
def test_any_other_answer_of_the_other_format_is_no_opinion_either(answer, words):
    with pytest.raises(NoOpinionError) as told:
        OpenAIDecisions().read(a_question(), answer)
    assert words in str(told.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text() | st.sampled_from(["answers", "verdict", "choice", "noul"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["answers", "verdict", "type"]), inner)
    ),
    max_leaves=8,
)


@given(json_values, st.sampled_from(ASKED), st.sampled_from(sorted(FORMATS)))
def test_no_json_breaks_the_reader(answer, asked, name):
    with pytest.raises(NoOpinionError):
        FORMATS[name][0].read(a_question("x", *asked), answer)
