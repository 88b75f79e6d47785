"""A request is sent again only where none can have run, and every failure says what to do."""

from __future__ import annotations

import asyncio
import datetime
import email.utils
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mlflow_llm_plugins.deployments.address import Address
from mlflow_llm_plugins.deployments.caller import Caller
from mlflow_llm_plugins.deployments.local.relay.relay import Upstream
from mlflow_llm_plugins.deployments.payloads import Request
from mlflow_llm_plugins.errors import (
    AccessDeniedError,
    EngineUnavailableError,
    GenerationError,
    InvalidInputError,
    LLMError,
    QueueFullError,
    RequestTimeoutError,
)
from tests.deployments.fake_server import (
    WAIT_S,
    FakeServer,
    answer,
    cut,
    endless,
    event,
    events,
    fake_server,
    hang_up,
    silence,
    stuck,
)
from tests.deployments.local.relayed import HERE, run
from tests.e2e.serving import free_port

PROMPT = "the launch code is 4711"
ASKED = Request("/v1/completions", {"prompt": PROMPT, "max_tokens": 3})
STREAMED = Request("/v1/completions", {"prompt": PROMPT, "stream": True})
BUSY = {"error": {"message": "The queue is full.", "code": "queue_full"}}
DONE = b"data: [DONE]\n\n"
LOST = {"error": {"message": "The engine ended while it worked on this request.", "code": "engine_lost"}}
INTERRUPTED = {"error": {"message": "The server shut down before this answer was complete.", "code": "interrupted"}}
GIVES_UP = (
    answer(LOST, 503),
    answer(INTERRUPTED, 503),
    answer(b"<html>", 503),
    cut,
    hang_up,
    answer(b"<html>", 200),
    answer({"message": "NaN"}, 500),
    answer({"message": "late"}, 504),
)


def at(url: str, timeout_s: float = 5, api_key_file: Path | None = None, is_ours: bool = True) -> Address:
    return Address(url, is_ours=is_ours, api_key_file=api_key_file, timeout_s=timeout_s, name="chat")


@pytest.fixture
def caller() -> Caller:
    return Caller(grace_s=0.2)


def test_answer_is_the_json_that_came(caller):
    with fake_server(answer({"choices": [1], "nan": None})) as server:
        assert caller.predict(at(server.url), ASKED) == {"choices": [1], "nan": None}
    (received,) = server.received
    assert (received.path, received.body) == (ASKED.path, ASKED.body)
    assert received.headers["content-type"] == "application/json"


def test_key_is_sent_and_shown_nowhere(caller, tmp_path):
    path = tmp_path / "keys"
    path.write_text("s3cret\n")
    with fake_server(answer({}), answer({"error": {"message": "Wrong key."}}, 401)) as server:
        address = at(server.url, api_key_file=path)
        caller.predict(address, ASKED)
        with pytest.raises(
            AccessDeniedError, match=f"Wrong key. It was sent the first key of .*{path.name}"
        ) as caught:
            caller.predict(address, ASKED)
    assert server.received[0].headers["authorization"] == "Bearer s3cret"
    assert "s3cret" not in f"{caught.value!r} {address!r} {caller!r}"


def test_environment_gives_neither_proxy_nor_credentials(caller, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password s3cret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("no_proxy", "")
    with fake_server(answer([])) as server:
        assert caller.predict(at(server.url), ASKED) == []
    assert "authorization" not in server.received[0].headers


def test_each_request_has_a_connection_of_its_own(caller):
    with fake_server(answer([])) as server:
        for _ in range(3):
            caller.predict(at(server.url), ASKED)
    assert {received.headers["connection"] for received in server.received} == {"close"}


def test_many_threads_get_their_own_answers():
    caller = Caller()
    with fake_server(lambda handler: answer(handler.path)(handler)) as server, ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda i: caller.predict(at(server.url), Request(f"/{i}", {})), range(64))
        assert list(found) == [f"/{i}" for i in range(64)]


def test_server_that_opens_its_port_a_moment_later_is_reached(caller):
    server = FakeServer(answer("here"))
    opening = threading.Timer(0.4, server.open)
    opening.start()
    try:
        assert caller.predict(at(server.url), ASKED) == "here"
        assert len(server.received) == 1
    finally:
        opening.join()
        server.close()


@pytest.mark.parametrize(("unreachable_s", "timeout_s"), [(0.5, 60), (60, 0.5)])
def test_server_that_is_not_there_is_an_error_within_the_bound(unreachable_s, timeout_s):
    url = f"http://127.0.0.1:{free_port()}"
    began = time.monotonic()
    with pytest.raises(EngineUnavailableError) as caught:
        Caller(unreachable_s=unreachable_s).predict(at(url, timeout_s), ASKED)
    assert time.monotonic() - began < 2
    assert str(caught.value) == (
        f"Deployment 'chat' does not answer at {url}; `mlflow deployments get -t local --name chat` says why."
    )


def test_connection_that_nobody_takes_is_given_up():
    with socket.socket() as listening, socket.socket() as first, socket.socket() as second:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for waiting in (first, second):  # fill the queue of the kernel
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        began = time.monotonic()
        with pytest.raises(EngineUnavailableError, match="does not answer at"):
            Caller(connect_s=0.2, unreachable_s=0.5).predict(
                at(f"http://127.0.0.1:{listening.getsockname()[1]}"), ASKED
            )
    assert 0.2 < time.monotonic() - began < 3


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("request_", [ASKED, STREAMED], ids=["whole", "stream"])
def test_busy_server_is_asked_again(caller, status, request_):
    last = events([event({"a": 1}), DONE]) if request_ is STREAMED else answer({"a": 1})
    with fake_server(answer(BUSY, status), answer(BUSY, status), last) as server:
        ask = caller.stream if request_ is STREAMED else caller.predict
        found = ask(at(server.url), request_)
        assert (list(found) if request_ is STREAMED else [found]) == [{"a": 1}]
    assert [received.body for received in server.received] == [request_.body] * 3


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (503, BUSY),
        (503, {"error_code": "TEMPORARILY_UNAVAILABLE", "message": "The model gave up."}),
        (503, b"<html>"),
        (503, []),
        (429, BUSY),
    ],
)
def test_model_of_another_flavor_may_have_run_before_it_said_that_it_is_busy(caller, status, body):
    with fake_server(answer(body, status)) as server, pytest.raises(LLMError):
        caller.predict(at(server.url, is_ours=False), ASKED)
    assert len(server.received) == 1


def test_relay_that_has_no_server_yet_is_asked_again_for_every_flavor(caller):
    with fake_server(answer("there")) as server:

        async def main(relay, port):
            upstream = Upstream(HERE, server.server_port)
            asyncio.get_running_loop().call_later(0.5, relay.switch, upstream)  # when the first try is long refused
            return await asyncio.to_thread(caller.predict, at(f"http://{HERE}:{port}", is_ours=False), ASKED)

        assert run(main, wait_s=0.01) == "there"
    assert len(server.received) == 1


def test_pause_that_the_server_asks_for_is_kept(caller):
    with fake_server(answer(BUSY, 429, Retry_After="1"), answer([])) as server:
        caller.predict(at(server.url), ASKED)
    first, second = server.received
    assert second.at_s - first.at_s >= 1


def test_pause_may_be_a_date(caller):
    then = email.utils.format_datetime(datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=2))
    with fake_server(answer(BUSY, 503, Retry_After=then), answer([])) as server:
        caller.predict(at(server.url), ASKED)
    first, second = server.received
    assert second.at_s - first.at_s >= 0.9  # dates have no fractions of a second


def test_pause_that_makes_no_sense_is_none(caller):
    with fake_server(answer(BUSY, 503, Retry_After="soon"), answer("there")) as server:
        assert caller.predict(at(server.url), ASKED) == "there"


def test_pause_beyond_the_deadline_is_not_begun(caller):
    began = time.monotonic()
    with (
        fake_server(answer(BUSY, 429, Retry_After="60")) as server,
        pytest.raises(QueueFullError, match=r"The queue is full\. Try again later, or raise max_queue_size"),
    ):
        caller.predict(at(server.url, timeout_s=5), ASKED)
    assert time.monotonic() - began < 2
    assert len(server.received) == 1


def test_server_that_stays_busy_is_given_up_at_the_deadline(caller):
    began = time.monotonic()
    with (
        fake_server(answer(BUSY, 503)) as server,
        pytest.raises(EngineUnavailableError, match="takes no requests now: The queue is full"),
    ):
        caller.predict(at(server.url, timeout_s=1), ASKED)
    assert time.monotonic() - began < 3
    assert len(server.received) > 2


@pytest.mark.parametrize("failing", GIVES_UP)
def test_request_that_may_have_run_is_never_sent_again(caller, failing):
    with fake_server(failing) as server, pytest.raises(LLMError):
        caller.predict(at(server.url), ASKED)
    assert len(server.received) == 1


@pytest.mark.parametrize("failing", [cut, hang_up])
def test_broken_answer_says_that_the_request_may_have_run(caller, failing):
    with fake_server(failing) as server, pytest.raises(EngineUnavailableError) as caught:
        caller.predict(at(server.url), ASKED)
    assert "broke its answer off" in str(caught.value)
    assert "the request may have run" in str(caught.value)


@pytest.mark.parametrize("silent", [silence, stuck])
def test_silent_server_is_given_up_and_not_asked_again(caller, silent):
    with (
        fake_server(silent) as server,
        pytest.raises(RequestTimeoutError, match=r"silent for more than 0\.2 s, its request_timeout_s"),
    ):
        caller.predict(at(server.url, timeout_s=0.2), ASKED)
    assert len(server.received) == 1


def test_answer_of_another_program_is_named(caller):
    with (
        fake_server(answer(b"<html>4711</html>", Content_Type="text/html; charset=utf-8")) as server,
        pytest.raises(GenerationError) as caught,
    ):
        caller.predict(at(server.url), ASKED)
    text = str(caught.value)
    assert "answered /v1/completions with text/html that cannot be read as JSON. Does another program listen" in text
    assert "4711" not in text


def test_redirect_is_not_followed(caller):
    with (
        fake_server(answer({}, 307, Location="http://127.0.0.1:1/")) as server,
        pytest.raises(GenerationError, match="HTTP status 307"),
    ):
        caller.predict(at(server.url), ASKED)


def test_large_request_that_is_refused_before_it_is_read_has_its_reason(caller):
    """As our server refuses it: at the headers, and the connection is closed."""
    refusal = json.dumps({"error": {"message": "The body is larger than 10 bytes."}}).encode()
    head = b"HTTP/1.1 413 x\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"

    def refuse() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(100)
            connection.sendall(head % len(refusal) + refusal)

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        thread = threading.Thread(target=refuse)
        thread.start()
        with pytest.raises(InvalidInputError, match=r"larger than 10 bytes.*MLFLOW_LLM_MAX_BODY_BYTES"):
            caller.predict(
                at(f"http://127.0.0.1:{listening.getsockname()[1]}"),
                Request("/v1/completions", {"prompt": "x" * 10**7}),
            )
        thread.join(WAIT_S)


@pytest.mark.parametrize("failing", [*GIVES_UP, answer(BUSY, 429, Retry_After="60")])
def test_no_error_repeats_what_was_asked(caller, failing):
    with fake_server(failing) as server, pytest.raises(LLMError) as caught:
        caller.predict(at(server.url), ASKED)
    assert "4711" not in str(caught.value)


def test_stream_gives_each_piece_and_skips_comments(caller):
    parts = [b": ping\n\n", event({"a": 1}), event({"a": 2}) + event({"a": 3})[:9], event({"a": 3})[9:], DONE]
    with fake_server(events(parts)) as server:
        assert list(caller.stream(at(server.url), STREAMED)) == [{"a": 1}, {"a": 2}, {"a": 3}]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_stream_takes_every_end_of_a_line(caller, end):
    with fake_server(events([part.replace(b"\n", end) for part in (event({"a": 1}), DONE)])) as server:
        assert list(caller.stream(at(server.url), STREAMED)) == [{"a": 1}]


def test_piece_is_given_before_the_next_one_comes(caller):
    with fake_server(endless(event({"a": 1}))) as server:
        pieces = caller.stream(at(server.url), STREAMED)
        assert next(pieces) == {"a": 1}
        pieces.close()


@pytest.mark.parametrize("leave", ["close", "drop"])
def test_stream_that_is_left_closes_its_connection(caller, leave):
    with fake_server(endless(event({"a": 1}))) as server:
        pieces = caller.stream(at(server.url), STREAMED)
        next(pieces)
        if leave == "close":
            pieces.close()
        del pieces
        assert server.client_left.wait(WAIT_S)


def test_stream_that_is_never_begun_is_never_asked_for(caller):
    with fake_server(endless(event({}))) as server:
        caller.stream(at(server.url), STREAMED)
        assert server.received == []


@pytest.mark.parametrize(
    ("ending", "kind", "reason"),
    [
        (events([event({"a": 1})], ends=False), EngineUnavailableError, "broke its answer off"),
        (events([event({"a": 1})]), EngineUnavailableError, "broke its answer off"),
        (events([event({"a": 1}), b"data: {\n\n"]), GenerationError, "an event that cannot be read as a JSON object"),
        (
            events([event({"a": 1}), event({"error": {"message": "Too late.", "code": "request_timeout"}}), DONE]),
            RequestTimeoutError,
            r"Too late\. A request may take 5 s",
        ),
    ],
)
def test_stream_that_goes_wrong_gives_what_came_and_then_the_error(caller, ending, kind, reason):
    with fake_server(ending) as server:
        pieces = caller.stream(at(server.url), STREAMED)
        assert next(pieces) == {"a": 1}
        with pytest.raises(kind, match=reason):
            next(pieces)
    assert len(server.received) == 1


def test_stream_that_falls_silent_is_given_up(caller):
    def hold(handler):
        events([event({"a": 1})], ends=False)(handler)
        handler.wfile.flush()
        silence(handler)

    with fake_server(hold) as server:
        pieces = caller.stream(at(server.url, timeout_s=0.2), STREAMED)
        next(pieces)
        with pytest.raises(RequestTimeoutError, match="silent for more than"):
            next(pieces)


def test_refusal_of_a_stream_is_raised_with_its_first_piece(caller):
    with (
        fake_server(answer({"error": {"message": "No such field."}}, 400)) as server,
        pytest.raises(InvalidInputError, match="No such field"),
    ):
        next(caller.stream(at(server.url), STREAMED))


def test_whole_answer_in_place_of_a_stream_is_an_error(caller):
    with (
        fake_server(answer({"choices": []})) as server,
        pytest.raises(GenerationError, match="application/json that cannot be read as a stream of events"),
    ):
        next(caller.stream(at(server.url), STREAMED))
