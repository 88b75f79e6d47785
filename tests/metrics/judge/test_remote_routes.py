"""Which route of a server is kept: no single row decides it, nor a server that answers what it does not know."""

from __future__ import annotations

import json

import pytest

from mlflow_llm_plugins.errors import AccessDeniedError, EngineUnavailableError
from mlflow_llm_plugins.metrics.judge.backends import backend_of
from tests.metrics.judge.remote_server import Reply, a_question, in_turn, remote_server
from tests.metrics.judge.test_remote_server import (  # noqa: F401  # the fixture, too
    chat,
    completion,
    errors,
    judge_of,
    no_key,
    systemone,
)

ERROR = Reply({"error": "Unexpected endpoint or method. (POST /v1/systemone)"})  # LM Studio's, with status 200
PAGE = Reply(b"<html>app</html>")
NOT_YOURS = Reply({"message": "Missing Authentication Token"}, 403)  # AWS's on routes that it does not have


def opinions_of(server, *texts, **settings):
    """Opinions, and the route that was kept."""
    judge = judge_of(server, **settings)
    try:
        return judge.ask([a_question(text) for text in texts], progress=False), judge.describe()["route"]
    finally:
        judge.close()


def refusing(word, answer, reply):
    """A route that refuses what has a word in it."""
    return lambda body: reply if word in json.dumps(body) else answer(body)


@pytest.mark.parametrize("texts", [["long", "good", "bad"], ["good", "bad", "long"]])
@pytest.mark.parametrize("reply", [Reply({}, 400), Reply({}, 403), Reply({}, 413), Reply({}, 422), ERROR, PAGE])
def test_a_row_that_its_route_refuses_costs_itself_alone_wherever_it_stands(texts, reply):
    with remote_server(systemone=refusing("long", systemone, reply), chat=chat) as server:
        opinions, route = opinions_of(server, *texts)
    assert route == "systemone"
    assert "/v1/chat/completions" not in server.paths()
    chosen = {text: opinion.choice for text, opinion in zip(texts, opinions, strict=True)}
    assert chosen == {"long": None, "good": 0, "bad": 1}
    assert all(opinion.logprobs for opinion in opinions if opinion.choice is not None)
    assert "the judge" in opinions[texts.index("long")].error


def test_a_route_is_tried_with_what_all_rows_share_and_nothing_of_the_row():
    with remote_server(systemone=refusing("long", systemone, Reply({}, 400))) as server:
        opinions_of(server, "long")
    first, second = (body for _, body, _ in server.received)
    assert second["questions"] == first["questions"]
    assert second["state"] == first["state"].replace("What is a loop?", "N/A").replace("long", "N/A")


def test_a_chat_that_refuses_the_first_row_is_kept_when_it_takes_another():
    with remote_server(chat=refusing("long", chat, Reply({}, 400))) as server:
        opinions, route = opinions_of(server, "long", "good", "bad", max_in_flight=1)
    assert [opinion.choice for opinion in opinions] == [None, 0, 1]
    assert route == "chat"
    assert server.paths().count("/v1/systemone") == 1


def test_a_server_that_fails_while_a_route_is_tried_decides_nothing():
    replies = in_turn(Reply({}, 400), Reply({}, 500), systemone({"state": "good"}))
    with remote_server(systemone=replies, chat=chat) as server:
        opinions, route = opinions_of(server, "x", "x", max_in_flight=1)
    assert errors(opinions) == ["the judge answered with HTTP status 500", None]
    assert route == "systemone"
    assert set(server.paths()) == {"/v1/systemone"}


@pytest.mark.parametrize("reply", [ERROR, PAGE, NOT_YOURS, Reply({}, 401), Reply([])])
def test_a_route_that_only_seems_to_be_there_is_left_for_one_that_is(reply):
    with remote_server(systemone=lambda _: reply, decisions=lambda _: reply, chat=chat) as server:
        opinions, route = opinions_of(server, "good", "bad", "good")
    assert [opinion.choice for opinion in opinions] == [0, 1, 0]
    assert route == "chat"
    assert server.paths()[-3:] == ["/v1/chat/completions"] * 3
    assert len(server.received) <= 7


def test_an_answer_that_is_no_verdict_still_shows_that_the_route_is_there():
    with remote_server(chat=in_turn(completion('{"verdict": "perhaps"}'), completion('{"verdict": "No"}'))) as server:
        opinions, route = opinions_of(server, "x", "x", "x")
    assert errors(opinions) == ["the judge's answer is none of the options", None, None]
    assert route == "chat"
    assert server.paths().count("/v1/systemone") == 1


@pytest.mark.parametrize(
    ("elsewhere", "of_chat", "error", "words"),
    [
        (
            PAGE,
            PAGE,
            EngineUnavailableError,
            "none of the routes systemone, decisions, chat .*is no JSON. Is the addr",
        ),
        (ERROR, Reply({}, 404), EngineUnavailableError, "none of the routes .*another form"),
        (NOT_YOURS, NOT_YOURS, AccessDeniedError, "HTTP status 403. Name the variable"),
        (NOT_YOURS, Reply({}, 404), AccessDeniedError, "HTTP status 403. Name the variable"),
        (PAGE, Reply({}, 401), AccessDeniedError, "HTTP status 401. Name the variable"),
        (Reply({}, 404), NOT_YOURS, AccessDeniedError, "HTTP status 403. Name the variable"),
    ],
)
def test_where_no_route_works_what_explains_most_is_raised(elsewhere, of_chat, error, words):
    routes = {"systemone": elsewhere, "decisions": elsewhere, "chat": of_chat}
    with (
        remote_server(**{name: lambda _, reply=reply: reply for name, reply in routes.items()}) as server,
        pytest.raises(error, match=words),
    ):
        opinions_of(server, "x", "x")


@pytest.mark.parametrize("elsewhere", [PAGE, NOT_YOURS])
def test_a_chat_that_refuses_all_rows_is_what_they_are_told(elsewhere):
    refused = Reply({"error": {"code": "model_not_loaded"}}, 400)
    with remote_server(systemone=lambda _: elsewhere, chat=lambda _: refused) as server:
        opinions, _ = opinions_of(server, "x", "x")
    assert errors(opinions) == ["the judge answered with HTTP status 400 (model_not_loaded)"] * 2


def test_a_server_that_keeps_its_models_to_itself_is_asked_without_one():
    with remote_server(models=lambda _: NOT_YOURS, systemone=lambda _: NOT_YOURS, chat=chat) as server:
        judge = backend_of(server.url)
        opinions = judge.ask([a_question("good"), a_question("bad")], progress=False)
        judge.close()
    assert [opinion.choice for opinion in opinions] == [0, 1]
