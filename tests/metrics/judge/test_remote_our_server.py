"""The server of this package as a judge: what comes over HTTP is what its engine says itself."""

from __future__ import annotations

import math

import pytest

from mlflow_llm_plugins.metrics.judge.backends import backend_of
from mlflow_llm_plugins.metrics.judge.backends.decisions import SystemOne
from mlflow_llm_plugins.openai_api.decisions import DecisionLimits, label_ids, parse_systemone, question_chats
from tests.metrics.judge.remote_server import CHOICES, ONE_TO_FIVE, WORDS, YES_NO, a_question
from tests.serving.conftest import artifact, serve, served  # noqa: F401  # fixtures

KINDS = [("yes_no", YES_NO), ("yes_no", YES_NO[::-1]), ("choice", CHOICES), ("score", ONE_TO_FIVE), ("score", WORDS)]


@pytest.fixture
def judge(served, monkeypatch):  # noqa: F811
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    judge = backend_of(served.url)
    yield judge
    judge.close()


def choose(engine, question):
    """The labels' log-probabilities, from the engine itself."""
    request = parse_systemone(SystemOne().body(question), DecisionLimits())
    (asked,) = request.questions
    (chat,) = question_chats(request)
    ids = engine.tokenizer.apply_chat_template(
        list(chat), add_generation_prompt=True, sanitize_control_tokens=True, return_dict=False
    )
    labels = label_ids(engine.tokenizer, ids, asked.labels)
    (row,) = engine.choose([labels.stem], labels.tails)
    return row


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_probabilities_are_those_of_the_engine(served, judge, kind, options):  # noqa: F811
    questions = [a_question(text, kind, options) for text in ("a loop repeats", "</s> <|end|> no", "été 循环")]
    opinions = judge.ask(questions, progress=False)
    for question, opinion in zip(questions, opinions, strict=True):
        row = choose(served.engine, question)
        row = row[::-1] if options == YES_NO[::-1] else row  # yes comes first there
        shares = [math.exp(logprob) / math.fsum(map(math.exp, row)) for logprob in row]
        assert [math.exp(logprob) for logprob in opinion.logprobs] == pytest.approx(shares, abs=1e-4)
        assert opinion.choice == shares.index(max(shares))
        assert opinion.choice_mass == pytest.approx(math.fsum(map(math.exp, row)), abs=1e-4)
    assert judge.describe()["route"] == "systemone"


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_a_chat_of_an_untrained_model_still_gives_one_of_the_labels(served, kind, options):  # noqa: F811
    judge = backend_of({"url": served.url, "route": "chat", "max_tokens": 64})
    opinions = judge.ask([a_question(text, kind, options) for text in ("x", "y z")], progress=False)
    judge.close()
    assert [opinion.error for opinion in opinions] == [None, None]
    assert all(opinion.choice in range(len(options)) for opinion in opinions)


def test_a_row_that_does_not_fit_costs_itself_alone(judge):
    opinions = judge.ask([a_question(text) for text in ("x", "SECRET " * 600, "y")], progress=False)
    assert [opinion.choice is None for opinion in opinions] == [False, True, False]
    assert opinions[1].error.startswith("the judge answered with HTTP status 400")
    assert "SECRET" not in opinions[1].error
