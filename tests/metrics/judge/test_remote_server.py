"""A judge behind a URL: its route is found once, what fails costs its row, what concerns all is raised once."""

from __future__ import annotations

import gzip
import json
import math
import socket
import threading
import time
from contextlib import suppress

import pytest

from mlflow_llm_plugins.errors import AccessDeniedError, EngineUnavailableError, InvalidInputError
from mlflow_llm_plugins.metrics.judge.backends import backend_of
from tests.metrics.judge.remote_server import (
    CHOICES,
    ONE_TO_FIVE,
    Reply,
    a_question,
    in_turn,
    remote_server,
)


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def systemone(body):
    """Says yes where the answer is good, with a probability of its own."""
    share = 0.75 if "good" in body["state"] else 0.25
    return Reply(
        {"answers": {"verdict": {"type": "noul", "noul": share}}, "diagnostics": {"verdict": {"label_mass": 0.5}}}
    )


def decisions(body):
    share = 0.75 if "good" in body["input"] else 0.25
    return Reply({"answers": [{"type": "predicate", "probability": share}]})


def chat(body):
    verdict = "Yes" if "good" in body["messages"][0]["content"] else "No"
    keys = body["response_format"]["json_schema"]["schema"]["required"] if "response_format" in body else None
    given = {"verdict": verdict, "rationale": f"It is {verdict}."}
    content = json.dumps({key: given[key] for key in keys}) if keys else " Because. "
    return completion(content)


def completion(content, **more):
    return Reply({"choices": [{"message": {"content": content}, "finish_reason": "stop", **more}]})


def judge_of(server, **settings):
    return backend_of({"url": server.url, "model": "m", **settings})


def asked(server, *texts, **settings):
    judge = judge_of(server, **settings)
    try:
        return judge.ask([a_question(text) for text in texts], progress=False)
    finally:
        judge.close()


def errors(opinions):
    return [opinion.error for opinion in opinions]


@pytest.mark.parametrize(
    ("routes", "tried"),
    [
        ({"systemone": systemone, "decisions": decisions, "chat": chat}, ["/v1/systemone"]),
        ({"decisions": decisions, "chat": chat}, ["/v1/systemone", "/v1/decisions"]),
        ({"chat": chat}, ["/v1/systemone", "/v1/decisions", "/v1/chat/completions"]),
    ],
)
@pytest.mark.parametrize("status", [404, 405, 501])
def test_the_first_route_that_a_server_has_is_found_once_and_kept(routes, tried, status):
    missing = {name: lambda _: Reply({}, status) for name in ("systemone", "decisions") if name not in routes}
    with remote_server(**routes, **missing) as server:
        judge = judge_of(server)
        texts = ["good", "bad", "good", "bad", "bad"]
        opinions = judge.ask([a_question(text) for text in texts], progress=False)
        judge.ask([a_question("good")], progress=False)
        judge.close()
    assert [opinion.choice for opinion in opinions] == [0, 1, 0, 1, 1]
    assert errors(opinions) == [None] * 5
    assert server.paths() == tried + [tried[-1]] * 5
    assert {body["model"] for _, body, _ in server.received} == {"m"}
    route = {"/v1/systemone": "systemone", "/v1/decisions": "decisions"}.get(tried[-1], "chat")
    assert judge.describe()["route"] == route


def test_probabilities_and_mass_are_told_where_the_server_tells_them():
    with remote_server(systemone=systemone) as server:
        (opinion,) = asked(server, "bad")
    assert opinion.logprobs == pytest.approx([math.log(0.25), math.log(0.75)])
    assert opinion.choice_mass == 0.5


def test_a_route_that_is_named_is_the_only_one_asked():
    with remote_server(systemone=systemone, chat=chat) as server:
        asked(server, "good", route="chat")
    assert server.paths() == ["/v1/chat/completions"]


def test_rows_are_in_flight_together_up_to_the_bound_and_stay_in_order():
    full = threading.Barrier(4)

    def together(body):
        if "alone" not in body["state"]:
            full.wait(10)  # passes only where four are open at once
        return systemone(body)

    texts = ["good alone", *(["good", "bad"] * 4)]
    with remote_server(systemone=together) as server:
        opinions = asked(server, *texts, max_in_flight=4)
    assert [opinion.choice for opinion in opinions] == [0, *([0, 1] * 4)]
    assert server.most_open == 4


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504, 529])
def test_a_busy_server_is_asked_again(status):
    busy = Reply({"error": {"message": "SECRET"}}, status)
    with remote_server(systemone=in_turn(busy, busy, systemone({"state": "good"}))) as server:
        opinions = asked(server, "good")
    assert (opinions[0].choice, len(server.received)) == (0, 3)


def test_a_server_gets_the_pause_that_it_asks_for():
    busy = Reply({}, 429, {"Retry-After": "1"})
    with remote_server(systemone=in_turn(busy, systemone({"state": "good"}))) as server:
        began = time.monotonic()
        asked(server, "good")
    assert time.monotonic() - began >= 1


def test_a_pause_beyond_the_deadline_is_not_waited_for():
    with remote_server(systemone=in_turn(Reply({}, 429, {"Retry-After": "3600"}))) as server:
        began = time.monotonic()
        opinions = asked(server, "good", deadline_s=5)
    assert errors(opinions) == ["the judge answered with HTTP status 429"]
    assert time.monotonic() - began < 4


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (
            Reply({"error": {"message": "SECRET", "code": "boom"}}, 500),
            "the judge answered with HTTP status 500 (boom)",
        ),
        (
            Reply({"error": {"message": "x", "code": "SECRET text"}}, 400),
            'the judge answered with HTTP status 400 to a typed decision; route="chat" asks for a verdict as JSON '
            "instead",
        ),
        (
            Reply({"detail": [{"input": "SECRET"}]}, 422),
            'the judge answered with HTTP status 422 to a typed decision; route="chat" asks for a verdict as JSON '
            "instead",
        ),
        (
            Reply(b"SECRET", 302, {"Location": "http://127.0.0.1:9/v1/systemone"}),
            "the judge answered with HTTP status 302",
        ),
        (Reply(b"<html>SECRET</html>"), "the judge's answer is no JSON"),
        (Reply(b'{"answers": ' + b"[" * 100_000), "the judge's answer is no JSON"),
        (Reply(b""), "the judge's answer is no JSON"),
        (
            Reply({"answers": {"verdict": {"type": "noul", "noul": math.nan}}}),
            "the judge's probabilities are no numbers from 0 to 1",
        ),
    ],
)
def test_what_a_server_does_to_one_row_is_told_without_its_text(reply, error):
    def route(body):
        return reply if "SECRET" in body["state"] else systemone(body)

    with remote_server(systemone=route) as server:
        opinions = asked(server, "good", "SECRET", "bad", route="systemone")
    assert [opinion.choice for opinion in opinions] == [0, None, 1]
    assert errors(opinions) == [None, error, None]


def test_a_first_row_that_fails_by_itself_leaves_the_others_alone():
    with remote_server(systemone=in_turn(Reply({}, 500), systemone({"state": "good"}))) as server:
        opinions = asked(server, "x", "x", "x")
    assert errors(opinions) == ["the judge answered with HTTP status 500", None, None]


def test_a_slow_server_costs_a_row_its_deadline_and_no_more():
    with remote_server(systemone=lambda body: server.closing.wait(5) and Reply({})) as server:
        began = time.monotonic()
        opinions = asked(server, "good", timeout_s=0.2, deadline_s=0.5)
        taken = time.monotonic() - began
        server.closing.set()
    assert opinions[0].error.startswith("the judge did not answer within 0.")
    assert taken < 3


@pytest.mark.parametrize("framing", ["length", "chunks", "end"])
def test_a_body_that_drips_in_costs_no_more_than_the_deadline(framing):
    heads = {"length": "Content-Length: 9999", "chunks": "Transfer-Encoding: chunked", "end": "Connection: close"}
    pieces = {"length": b" ", "chunks": b"1\r\n \r\n", "end": b" "}
    left = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            while not left.is_set():
                connection, _ = listener.accept()
                with connection, suppress(OSError):
                    connection.recv(65536)
                    connection.sendall(f"HTTP/1.1 200 OK\r\n{heads[framing]}\r\n\r\n".encode())
                    while not left.wait(0.05):
                        connection.sendall(pieces[framing])

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
            judge = backend_of({"url": url, "model": "m", "route": "chat", "timeout_s": 0.3, "deadline_s": 0.5})
            began = time.monotonic()
            opinions = judge.ask([a_question()], progress=False)
            taken = time.monotonic() - began
            judge.close()
        finally:
            left.set()
            socket.create_connection(listener.getsockname()).close()  # ends a wait for one
            thread.join()
    assert opinions[0].error.startswith("the judge did not answer within 0.")
    assert taken < 3


@pytest.mark.parametrize("zipped", [False, True])
def test_a_long_and_a_zipped_body_are_read_whole(zipped):
    content = json.dumps({**chat({"messages": [{"content": "good"}], "response_format": {
        "json_schema": {"schema": {"required": ["verdict"]}}}}).body, "padding": "x" * 300_000}).encode()  # fmt: skip
    reply = Reply(gzip.compress(content), 200, {"Content-Encoding": "gzip"}) if zipped else Reply(content)
    with remote_server(chat=lambda _: reply) as server:
        assert asked(server, "good", route="chat")[0].choice == 0


def test_a_body_that_ends_too_early_is_asked_for_again():
    short = Reply(b'{"answers": ', 200, {"Content-Length": "99", "Connection": "close"})
    with remote_server(systemone=in_turn(short, systemone({"state": "good"}))) as server:
        assert asked(server, "good")[0].choice == 0
    assert len(server.received) == 2


def test_after_some_rows_without_an_answer_the_rest_fails_at_once():
    def silent(body):
        if "good" in body["state"]:
            return systemone(body)
        server.closing.wait(5)
        return Reply({})

    texts = ["bad", "bad", "good", *["bad"] * 40]
    with remote_server(systemone=silent) as server:
        began = time.monotonic()
        opinions = asked(server, *texts, max_in_flight=1, timeout_s=0.1, deadline_s=0.1)
        taken = time.monotonic() - began
        server.closing.set()
    assert opinions[2].choice == 0
    assert len(server.received) == 6
    assert "not asked" not in opinions[5].error
    assert opinions[6].error.startswith("the judge did not answer within 0.")
    assert "not asked, as that happened to 3 questions in a row" in opinions[6].error
    assert "raise max_unanswered" in opinions[-1].error
    assert taken < 4


def test_refusals_are_answers_and_end_nothing():
    with remote_server(systemone=lambda _: Reply({}, 500)) as server:
        opinions = asked(server, *["x"] * 9, max_in_flight=1)
    assert errors(opinions) == ["the judge answered with HTTP status 500"] * 9
    assert len(server.received) == 9


def test_a_judge_that_has_given_up_asks_again_the_next_time():
    with remote_server(
        systemone=in_turn(*[Reply(b"", 200, {"Content-Length": "9"})] * 3, systemone({"state": "good"}))
    ) as s:
        judge = judge_of(s, max_in_flight=1, max_unanswered=1, deadline_s=0.01)
        first = judge.ask([a_question()] * 3, progress=False)
        for _ in range(3):
            last = judge.ask([a_question()], progress=False)
        judge.close()
    assert all(opinion.error for opinion in first)
    assert last[0].choice == 0


@pytest.mark.parametrize(("status", "tries"), [(401, 1), (403, 2)])
def test_a_refused_key_is_raised_once_and_never_shown(status, tries, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "sk-secret")
    refused = Reply({"error": {"message": "Incorrect API key provided: sk-secret"}}, status)
    with remote_server(systemone=lambda _: refused) as server:
        with pytest.raises(AccessDeniedError) as told:
            asked(server, "x", "x", "x", api_key_env="JUDGE_KEY")
        assert server.paths() == ["/v1/systemone"] * tries + ["/v1/decisions", "/v1/chat/completions"]
    assert "sk-secret" not in str(told.value)
    assert "api_key_env" in str(told.value)
    assert server.received[0][2]["authorization"] == "Bearer sk-secret"


def test_a_key_refused_later_costs_the_row_alone():
    with remote_server(systemone=in_turn(systemone({"state": "good"}), Reply({}, 403))) as server:
        opinions = asked(server, "x", "x")
    assert opinions[0].choice == 0
    assert "HTTP status 403" in opinions[1].error


def test_the_key_comes_from_a_variable_or_a_file_and_is_not_described(monkeypatch, tmp_path):
    (tmp_path / "keys").write_text("# ours\n\nsk-file\nsk-other\n", encoding="utf-8")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-usual")
    with remote_server(systemone=systemone) as server:
        asked(server, "x")
        asked(server, "x", api_key_file=str(tmp_path / "keys"))
        assert "sk-" not in json.dumps(judge_of(server).describe())
    assert [headers["authorization"] for _, _, headers in server.received] == ["Bearer sk-usual", "Bearer sk-file"]


def test_the_usual_key_is_not_sent_where_others_can_read_it(monkeypatch):
    from mlflow_llm_plugins.metrics.judge.backends.api_key import api_key
    from mlflow_llm_plugins.metrics.judge.backends.settings import ServerSettings

    monkeypatch.setenv("OPENAI_API_KEY", "sk-usual")
    keys = [
        api_key(url, ServerSettings())
        for url in ("http://example.com/v1", "https://example.com/v1", "http://[::1]/v1")
    ]
    assert keys == [None, "sk-usual", "sk-usual"]
    assert api_key("http://example.com/v1", ServerSettings(api_key_env="OPENAI_API_KEY")) == "sk-usual"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"api_key_env": "NO_SUCH_KEY"}, "api_key_env='NO_SUCH_KEY' is not set"),
        ({"api_key_file": "/no/such/file"}, "cannot be read: No such file"),
    ],
)
def test_a_missing_key_is_told_before_anything_is_asked(settings, words):
    with remote_server(systemone=systemone) as server:
        with pytest.raises(AccessDeniedError) as told:
            asked(server, "x", **settings)
        assert server.received == []
    assert words in str(told.value)


def test_a_server_with_none_of_the_routes_is_no_judge():
    with remote_server() as server, pytest.raises(EngineUnavailableError) as told:
        asked(server, "x", "x")
    assert "none of the routes systemone, decisions, chat for model 'm'" in str(told.value)


def test_an_address_without_a_server_is_told_within_seconds():
    with remote_server() as server:
        pass
    began = time.monotonic()
    with pytest.raises(EngineUnavailableError, match="cannot be reached"):
        asked(server, "x", "x", deadline_s=0.5)
    assert time.monotonic() - began < 5


def test_a_server_that_goes_away_is_waited_for_once_and_not_for_each_row():
    with remote_server(systemone=systemone) as server:
        judge = judge_of(server, deadline_s=1, max_in_flight=1)
        judge.ask([a_question()], progress=False)
    began = time.monotonic()
    opinions = judge.ask([a_question()] * 20, progress=False)
    judge.close()
    assert time.monotonic() - began < 5
    assert all("cannot be reached" in opinion.error for opinion in opinions)


def test_no_question_is_no_request():
    with remote_server(systemone=systemone) as server:
        assert asked(server) == []
        assert server.received == []


@pytest.mark.parametrize(("names", "model"), [(["only"], "only"), ([], None)])
def test_the_one_model_of_a_server_is_found(names, model):
    models = Reply({"object": "list", "data": [{"id": name} for name in names]})
    with remote_server(systemone=systemone, models=lambda _: models) as server:
        judge = backend_of(server.url)
        assert judge.ask([a_question("good")], progress=False)[0].choice == 0
        judge.close()
    assert server.received[-1][1].get("model") == model


@pytest.mark.parametrize("listing", [Reply({}, 404), Reply({"data": []}), Reply(b"no JSON")])
def test_a_server_is_asked_for_its_models_once(listing):
    with remote_server(systemone=systemone, models=lambda _: listing) as server:
        judge = backend_of(server.url)
        judge.ask([a_question()] * 8, progress=False)
        judge.close()
    assert server.paths().count("/v1/models") == 1


def test_a_server_that_is_there_passes_the_check_and_is_asked_nothing():
    models = Reply({"data": [{"id": "only"}]})
    with remote_server(systemone=systemone, models=lambda _: models) as server:
        named, unnamed = judge_of(server), backend_of(server.url)
        for judge in (named, unnamed):
            judge.check()
            judge.close()
        assert server.paths() == ["/v1/models"] * 2
    assert unnamed.describe()["model"] == "only"


@pytest.mark.parametrize("listing", [Reply({}, 403), Reply({}, 404), Reply({}, 500)])
def test_a_server_that_does_not_list_its_models_passes_the_check(listing):
    with remote_server(systemone=systemone, models=lambda _: listing) as server:
        judge = judge_of(server)
        judge.check()
        assert judge.ask([a_question("good")], progress=False)[0].choice == 0
        judge.close()


def test_the_check_finds_a_refused_key_a_missing_server_and_a_choice_of_models():
    several = Reply({"data": [{"id": "a"}, {"id": "b"}]})
    with remote_server(models=in_turn(Reply({}, 401), several)) as server:
        with pytest.raises(AccessDeniedError, match="api_key_env"):
            judge_of(server).check()
        with pytest.raises(InvalidInputError, match="has several models"):
            backend_of(server.url).check()
    with pytest.raises(EngineUnavailableError, match="cannot be reached"):
        judge_of(server, deadline_s=0.2).check()


def test_of_several_models_one_must_be_named():
    models = Reply({"data": [{"id": f"model-{i}"} for i in range(30)]})
    with remote_server(systemone=systemone, models=lambda _: models) as server:
        judge = backend_of(server.url)
        with pytest.raises(InvalidInputError) as told:
            judge.ask([a_question()], progress=False)
        judge.close()
    assert "has several models" in str(told.value)
    assert "model-9, ..." in str(told.value)


def test_a_chat_is_held_to_the_labels_and_told_so():
    with remote_server(chat=chat) as server:
        asked(server, "good", route="chat")
    body = server.received[0][1]
    schema = body["response_format"]["json_schema"]
    assert schema["strict"] is True
    assert schema["schema"]["properties"] == {"verdict": {"type": "string", "enum": ["Yes", "No"]}}
    assert body["temperature"] == 0
    assert body["messages"][0]["content"] == a_question("good").text() + '\nWrite it into a JSON object as "verdict".'


@pytest.mark.parametrize("routes", [{"chat": chat}, {"systemone": systemone, "chat": chat}])
def test_a_rationale_comes_after_the_verdict(routes):
    with remote_server(**routes) as server:
        judge = judge_of(server)
        (opinion,) = judge.ask([a_question("good")], rationale=True, progress=False)
        judge.close()
    assert opinion.choice == 0
    last = server.received[-1][1]
    if "systemone" in routes:
        assert [message["role"] for message in last["messages"]] == ["user", "assistant", "user"]
        assert last["messages"][1]["content"] == "Yes"
        assert opinion.rationale == "Because."
    else:
        assert list(last["response_format"]["json_schema"]["schema"]["properties"]) == ["verdict", "rationale"]
        assert opinion.rationale == "It is Yes."


def test_a_verdict_stands_where_no_rationale_can_be_had():
    with remote_server(systemone=systemone) as server:
        judge = judge_of(server)
        (opinion,) = judge.ask([a_question("good")], rationale=True, progress=False)
        judge.close()
    assert (opinion.choice, opinion.rationale, opinion.error) == (0, None, None)


def test_a_parameter_that_a_server_does_not_take_is_left_out_from_then_on():
    def picky(body):
        for name in ("logprobs", "temperature"):
            if name in body:
                return Reply({"error": {"message": f"Unsupported parameter: '{name}'"}}, 400)
        if "max_tokens" in body:
            return Reply({"error": {"message": "Use 'max_completion_tokens' instead of 'max_tokens'."}}, 400)
        return chat(body)

    with remote_server(chat=picky) as server:
        opinions = asked(server, "good", "bad", route="chat", max_tokens=300)
    assert [opinion.choice for opinion in opinions] == [0, 1]
    assert len(server.received) == 5
    body = server.received[-1][1]
    assert body["max_completion_tokens"] == 300
    assert not {"max_tokens", "logprobs", "top_logprobs", "temperature"} & set(body)


def test_a_bound_that_a_user_gives_is_never_dropped():
    refused = Reply({"error": {"message": "max_tokens=300 does not fit", "code": "context_length_exceeded"}}, 400)
    with remote_server(chat=lambda _: refused) as server:
        opinions = asked(server, "x", route="chat", max_tokens=300)
    assert errors(opinions) == ["the judge answered with HTTP status 400 (context_length_exceeded)"]
    assert [body["max_tokens"] for _, body, _ in server.received] == [300]


ECHOES = {
    "OpenAI's": lambda text: {"error": {"message": f"invalid: {text}", "param": "messages[0]", "input": text}},
    "FastAPI's": lambda text: {"detail": [{"loc": ["body", "messages"], "msg": f"too long: {text}", "input": text}]},
    "FastAPI's text": lambda text: {"detail": text},
    "vLLM's": lambda text: {"object": "error", "message": text, "param": None, "code": 400},
    "plain": lambda text: text.encode(),
}


@pytest.mark.parametrize("form", ECHOES)
@pytest.mark.parametrize("status", [400, 422])
def test_a_text_that_is_repeated_in_an_error_changes_no_parameter_and_costs_its_row_alone(form, status):
    def echo(body):
        text = body["messages"][0]["content"]
        return Reply(ECHOES[form](text), status) if "logprobs" in text else chat(body)

    texts = ["good", "temperature logprobs json_schema max_completion_tokens", "good"]
    with remote_server(chat=echo) as server:
        opinions = asked(server, *texts, route="chat", max_tokens=9)
    assert [opinion.choice for opinion in opinions] == [0, None, 0]
    assert len(server.received) == 3
    assert all({"temperature", "logprobs", "max_tokens"} <= set(body) for _, body, _ in server.received)


@pytest.mark.parametrize(
    "refusal",
    [
        lambda name: {"error": {"message": f"Unsupported parameter: '{name}'"}},
        lambda name: {"error": {"message": "no", "param": name}},
        lambda name: {"detail": [{"loc": ["body", name], "msg": "Extra inputs are not permitted", "input": 0}]},
        lambda name: {"object": "error", "message": f"{name} is not supported", "code": 400},
        lambda name: {"error": f"{name} is not supported"},
    ],
)
def test_a_refused_parameter_is_read_in_the_form_of_many_servers(refusal):
    def picky(body):
        found = [name for name in ("logprobs", "temperature") if name in body]
        return Reply(refusal(found[0]), 400) if found else chat(body)

    with remote_server(chat=picky) as server:
        opinions = asked(server, "good", "bad", route="chat")
    assert [opinion.choice for opinion in opinions] == [0, 1]
    assert len(server.received) == 4


@pytest.mark.parametrize("status", [400, 422])
def test_a_route_that_cannot_be_asked_this_is_left_for_one_that_can(status):
    refused = Reply({"detail": "labels must be single tokens"}, status)
    with remote_server(systemone=lambda _: refused, chat=chat) as server:
        judge = judge_of(server)
        opinions = judge.ask([a_question(text) for text in ("good", "bad", "good")], progress=False)
        judge.close()
    assert [opinion.choice for opinion in opinions] == [0, 1, 0]
    assert server.paths() == [*["/v1/systemone"] * 2, "/v1/decisions", *["/v1/chat/completions"] * 3]
    assert judge.describe()["route"] == "chat"


def test_a_first_row_that_every_route_refuses_does_not_decide_the_route():
    def refuse(answer):
        return lambda body: (
            Reply({"error": {"message": "too long"}}, 400) if "long" in json.dumps(body) else answer(body)
        )

    with remote_server(systemone=refuse(systemone), chat=refuse(chat)) as server:
        judge = judge_of(server, max_in_flight=1)
        opinions = judge.ask([a_question(text) for text in ("long", "good")], progress=False)
        judge.close()
    assert [opinion.choice for opinion in opinions] == [None, 0]
    assert opinions[0].error.startswith("the judge answered with HTTP status 400 to a typed decision")
    assert judge.describe()["route"] == "systemone"


def test_a_server_that_cannot_hold_an_answer_to_a_form_is_no_judge():
    refused = Reply({"error": {"message": "response_format is not supported"}}, 400)
    with remote_server(chat=lambda _: refused) as server, pytest.raises(InvalidInputError, match="to a JSON schema"):
        asked(server, "x", route="chat")


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (completion('{"verdict": "yes"}'), "the judge's answer is none of the options"),
        (completion('{"verdict": "SECRET"}'), "the judge's answer is none of the options"),
        (completion('{"verdict": ["Yes"]}'), "the judge's answer is none of the options"),
        (completion("Yes"), "the judge's answer is not the JSON that was asked for"),
        (completion("[" * 100_000), "the judge's answer is not the JSON that was asked for"),
        (completion(None), "the judge's answer is not the JSON that was asked for"),
        (completion('{"verd', finish_reason="length"), "the judge's answer was cut off; raise max_tokens"),
        (Reply({"choices": [{"message": {"content": None, "refusal": "no"}}]}), "the judge refused to answer"),
        (Reply({"choices": []}), "the judge's answer has another form than was asked for"),
        (Reply([]), "the judge's answer has another form than was asked for"),
    ],
)
def test_a_written_answer_that_is_no_verdict_is_an_error(reply, error):
    with remote_server(chat=lambda _: reply) as server:
        opinions = asked(server, "x", route="chat")
    assert errors(opinions) == [error]


def token(text, *others):
    top = [{"token": other, "logprob": logprob, "bytes": list(other.encode())} for other, logprob in others]
    return {"token": text, "logprob": 0.0, "bytes": list(text.encode()), "top_logprobs": top}


def with_tokens(*tokens):
    content = "".join(each["token"] for each in tokens)
    return completion(
        content, logprobs={"content": [*tokens, {"token": "<eos>", "logprob": 0, "bytes": None, "top_logprobs": []}]}
    )


def scored(reply, kind, options):
    with remote_server(chat=lambda _: reply) as server:
        judge = judge_of(server, route="chat")
        (opinion,) = judge.ask([a_question("x", kind, options)], progress=False)
        judge.close()
    return opinion


FIVE = [("1", -4.0), ("2", -3.0), ("3", -0.3), ("4", -2.5), ("5", -6.0)]
START = token('{"', ("{", -9.0)), token("verdict"), token('": "')


def test_the_probabilities_of_a_written_verdict_are_those_of_its_first_token():
    opinion = scored(with_tokens(*START, token("3", *FIVE, ("x", -8.0)), token('"}')), "score", ONE_TO_FIVE)
    assert opinion.choice == 2
    assert opinion.logprobs == pytest.approx([logprob for _, logprob in FIVE])
    assert opinion.choice_mass == pytest.approx(sum(math.exp(logprob) for _, logprob in FIVE))


def test_a_quote_in_the_same_token_and_several_tokens_for_a_label_are_read():
    start = token('{"'), token("verdict"), token('":')
    others = [(' "3', -0.2), (' "3"', -3.0), (' "1', -4.0), (' "2', -5.0), (' "4"', -6.0), (' "5', -7.0), ("3", -1.0)]
    opinion = scored(with_tokens(*start, token(' "3', *others), token('"}')), "score", ONE_TO_FIVE)
    expected = [-4.0, -5.0, math.log(math.exp(-0.2) + math.exp(-3.0)), -6.0, -7.0]
    assert opinion.logprobs == pytest.approx(expected)


@pytest.mark.parametrize(
    ("last", "kind", "options"),
    [
        (token("3", *FIVE[:4]), "score", ONE_TO_FIVE),  # nothing is known of 5
        (token("3", *FIVE[:4], ("5", math.nan)), "score", ONE_TO_FIVE),
        (token("3"), "score", ONE_TO_FIVE),
        ({"token": "3", "logprob": 0, "bytes": None}, "score", ONE_TO_FIVE),
        (token("c", ("c", -0.1), ("l", -3.0), ("C", -4.0)), "choice", (*CHOICES[:2], CHOICES[0].__class__("cl"))),
    ],
)
def test_where_a_label_is_not_told_or_not_told_apart_no_probability_is_made_up(last, kind, options):
    written = options[2].label if kind == "score" else options[1].label
    rest = token(written.removeprefix(last["token"]) + '"}')
    opinion = scored(with_tokens(*START, last, rest), kind, options)
    assert (opinion.logprobs, opinion.error) == (None, None)
    assert options[opinion.choice].label == written


def test_cookies_of_a_server_are_not_kept():
    with remote_server(systemone=lambda body: Reply(systemone(body).body, 200, {"Set-Cookie": "a=b"})) as server:
        asked(server, "x", "x", "x")
    assert all("cookie" not in headers for _, _, headers in server.received)


def test_no_thread_is_left():
    before = set(threading.enumerate())
    with remote_server(systemone=systemone) as server:
        asked(server, *["x"] * 30)
    assert {thread for thread in threading.enumerate() if thread.name.startswith("judge")} - before == set()
