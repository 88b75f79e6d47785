"""Calls keep to their time whatever drips, and end with the questions that they are made for."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager, suppress

import pytest

from mlflow_llm_plugins.metrics.judge.backends.http_calls import HttpCalls
from mlflow_llm_plugins.metrics.judge.backends.retries import UnansweredError
from mlflow_llm_plugins.metrics.judge.backends.rows_in_flight import RowsInFlight
from mlflow_llm_plugins.metrics.judge.backends.settings import ServerSettings
from mlflow_llm_plugins.metrics.judge.backends.stopping import Stopping
from mlflow_llm_plugins.metrics.judge.question import Opinion
from tests.metrics.judge.remote_server import Reply, a_question, remote_server

WITHIN_S = 5  # for what a sound program does at once
OK = b"HTTP/1.1 200 OK\r\n"


@contextmanager
def raw_server(serve):
    """Gives the URL of one that plays `serve(connection, left)` to each connection, once a request has come."""
    left = threading.Event()
    threads = []

    def play(connection):
        with connection, suppress(OSError):
            connection.recv(65536)
            serve(connection, left)

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept():
            while not left.is_set():
                threads.append(threading.Thread(target=play, args=(listener.accept()[0],)))
                threads[-1].start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        finally:
            left.set()
            socket.create_connection(listener.getsockname()).close()  # ends a wait for one
            for thread in (accepting, *threads):
                thread.join()


def calls_of(url, stopping=None, **settings):
    return HttpCalls(url, None, ServerSettings(**settings), stopping or Stopping())


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        (b"", b"H"),
        (OK, b"X"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n5;", b"x"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"x"),
        (OK + b"Content-Length: 999\r\n\r\n", b" "),
        (OK + b"Connection: close\r\n\r\n", b" "),
    ],
    ids=["status", "header", "continue", "chunk-extension", "trailer", "body", "body-to-the-end"],
)
def test_an_answer_that_drips_takes_no_longer_than_its_time(begin, piece):
    still_dripping = []

    def drip(connection, left):
        connection.sendall(begin)
        end_s = time.monotonic() + WITHIN_S
        with suppress(OSError):  # the client has left
            while time.monotonic() < end_s and not left.wait(0.02):
                connection.sendall(piece)
            still_dripping.append(time.monotonic() >= end_s)

    with raw_server(drip) as url:
        calls = calls_of(url, timeout_s=0.2, deadline_s=0.3)
        with pytest.raises(UnansweredError, match=r"the judge did not answer within 0\.\d+ s") as told:
            calls.post("/x", {})
        assert still_dripping in ([], [False])
        calls.close()
    assert told.value.is_silence


def test_a_slow_answer_leaves_the_next_one_on_its_connection_the_whole_time():
    answered = threading.Semaphore(0)

    def slowly(body):
        answered.acquire(timeout=0.3)
        return Reply({"n": 1})

    with remote_server(x=slowly) as server:
        calls = calls_of(server.url, timeout_s=2, deadline_s=2)
        assert [calls.post("/x", {}) for _ in range(3)] == [{"n": 1}] * 3
        calls.close()


def test_a_stopped_call_leaves_its_answer_at_once_and_asks_no_more():
    waiting = threading.Event()
    stopping, call = Stopping(), threading.Event()
    told = []

    def silent(connection, left):
        waiting.set()
        left.wait(WITHIN_S)

    def ask(calls):
        stopping.join(call)
        for _ in range(2):
            try:
                calls.post("/x", {})
            except UnansweredError as error:
                told.append(str(error))

    with raw_server(silent) as url:
        calls = calls_of(url, stopping, timeout_s=60, deadline_s=60)
        asking = threading.Thread(target=ask, args=(calls,))
        asking.start()
        assert waiting.wait(WITHIN_S)
        stopping.end(call)
        asking.join(WITHIN_S)
        assert not asking.is_alive()
        calls.close()
    assert told == ["the judge's answer broke off with ConnectionError", "the judge is no longer asked"]


def test_a_stopped_call_leaves_another_one_alone_that_waits_on_a_connection_which_both_had():
    is_open, released = threading.Event(), threading.Event()

    def held(body):
        is_open.set()
        assert released.wait(WITHIN_S)
        return Reply({"n": 1})

    stopping, first, second = Stopping(), threading.Event(), threading.Event()
    answers = []

    def ask(call, path):
        stopping.join(call)
        answers.append(calls.post(path, {}))

    with remote_server(x=lambda _: Reply({"n": 0}), held=held) as server:
        calls = calls_of(server.url, stopping, timeout_s=WITHIN_S)
        for call, path in ((first, "/x"), (second, "/held")):
            asking = threading.Thread(target=ask, args=(call, path))
            asking.start()
            if call is first:
                asking.join(WITHIN_S)
        assert is_open.wait(WITHIN_S)
        stopping.end(first)
        released.set()
        asking.join(WITHIN_S)
        calls.close()
    assert answers == [{"n": 0}, {"n": 1}]
    assert server.paths() == ["/v1/x", "/v1/held"]


def test_an_interruption_closes_the_connections_that_wait():
    open_now = threading.Semaphore(0)
    rows = RowsInFlight(3)

    def silent(connection, left):
        open_now.release()
        left.wait(WITHIN_S)

    with raw_server(silent) as url:
        calls = calls_of(url, rows.stopping, timeout_s=60, deadline_s=60)

        def ask(question):
            text = question.sections[-1].text
            if text == "first":
                return Opinion(choice=0)
            if text == "interrupts":
                assert all(open_now.acquire(timeout=WITHIN_S) for _ in range(2))
                raise KeyboardInterrupt
            calls.post("/x", {})
            raise AssertionError("it was answered")

        before = set(threading.enumerate())
        with pytest.raises(KeyboardInterrupt):
            rows.ask(ask, [a_question(text) for text in ("first", "interrupts", *["x"] * 9)], progress=False)
        for thread in set(threading.enumerate()) - before:
            if thread.name.startswith("judge"):
                thread.join(WITHIN_S)
                assert not thread.is_alive()
        calls.close()
