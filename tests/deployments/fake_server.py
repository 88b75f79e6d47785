"""An HTTP server on the loopback interface that gives the answers it was told to give, one after the other."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WAIT_S = 10.0
PING_S = 0.01


@dataclass(frozen=True)
class Received:
    """One request that came."""

    path: str
    headers: dict[str, str]  # names in lower case
    body: Any
    at_s: float


class FakeServer(ThreadingHTTPServer):
    """What came, and what is to be answered; the last answer is repeated."""

    block_on_close = True
    daemon_threads = False

    def __init__(self, *answers: Answer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler, bind_and_activate=False)
        self.server_bind()  # the port is ours; until `open` connections are refused
        self.answers = list(answers)
        self.received: list[Received] = []
        self.client_left = threading.Event()
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def open(self) -> None:
        self.server_activate()
        self._thread.start()

    def close(self) -> None:
        self.closing.set()
        if self._thread.is_alive():
            self.shutdown()
        self.server_close()

    def take(self, received: Received) -> Answer:
        with self._lock:
            self.received.append(received)
            return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that leave are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.take(Received(self.path, headers, body, time.monotonic()))(self)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


Answer = Callable[[_Handler], None]


def answer(body: object, status: int = 200, **headers: str) -> Answer:
    """JSON, or bytes as they are."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"Content-Type": "application/json", "Content-Length": str(len(content))}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}

    def write(handler: _Handler) -> None:
        _write_head(handler, status, sent)
        handler.wfile.write(content)

    return write


def events(parts: Iterable[bytes], ends: bool = True) -> Answer:
    """A chunked stream, a chunk for each part; one that does not end is cut off."""

    def write(handler: _Handler) -> None:
        _write_head(handler, 200, {"Content-Type": "text/event-stream; charset=utf-8", "Transfer-Encoding": "chunked"})
        for part in parts:
            _write_chunk(handler, part)
        if ends:
            handler.wfile.write(b"0\r\n\r\n")
        handler.close_connection = True

    return write


def endless(first: bytes) -> Answer:
    """A stream that says a thing and then only that it lives, until the client is gone."""

    def write(handler: _Handler) -> None:
        _write_head(handler, 200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})
        _write_chunk(handler, first)
        try:
            while not handler.server.closing.wait(PING_S):
                _write_chunk(handler, b": ping\n\n")
        except OSError:
            handler.server.client_left.set()
        handler.close_connection = True

    return write


def silence(handler: _Handler) -> None:
    """No answer before the end of the test."""
    handler.server.closing.wait(WAIT_S)
    handler.close_connection = True


def hang_up(handler: _Handler) -> None:
    """The connection is closed without an answer."""
    handler.close_connection = True


def cut(handler: _Handler) -> None:
    """The connection is closed within the answer."""
    _write_head(handler, 200, {"Content-Type": "application/json", "Content-Length": "100"})
    handler.wfile.write(b'{"choices": [')
    handler.close_connection = True


def stuck(handler: _Handler) -> None:
    """The answer stops coming."""
    cut(handler)
    handler.wfile.flush()
    silence(handler)


def event(data: object) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


@contextmanager
def fake_server(*answers: Answer) -> Iterator[FakeServer]:
    """One that is open until the block ends."""
    server = FakeServer(*answers)
    server.open()
    try:
        yield server
    finally:
        server.close()


def _write_head(handler: _Handler, status: int, headers: dict[str, str]) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()


def _write_chunk(handler: _Handler, part: bytes) -> None:
    handler.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
