"""An HTTP server on the loopback interface that plays a judge: a route is a function from a request to an answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from mlflow_llm_plugins.metrics.judge.question import Option, Question, Section

NO_ROUTE = {"error": {"message": "no such route"}}


@dataclass
class Reply:
    """An answer: JSON, or bytes as they are."""

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


Route = Callable[[Any], Reply]


class RemoteServer(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True

    def __init__(self, routes: dict[str, Route]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.routes = routes
        self.received: list[tuple[str, Any, dict[str, str]]] = []
        self.open_now = 0
        self.most_open = 0
        self.closing = threading.Event()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def paths(self) -> list[str]:
        return [path for path, _, _ in self.received]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that leave are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: RemoteServer
    timeout = 0.5  # of a connection on which nothing comes

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def do_GET(self) -> None:
        self._answer(None)

    def _answer(self, body: Any) -> None:
        server = self.server
        with server.lock:
            server.received.append((self.path, body, {k.lower(): v for k, v in self.headers.items()}))
            server.open_now += 1
            server.most_open = max(server.most_open, server.open_now)
        try:
            route = server.routes.get(self.path.removeprefix("/v1"))
            reply = Reply(NO_ROUTE, 404) if route is None else route(body)
        finally:
            with server.lock:
                server.open_now -= 1
        content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        self.send_response(reply.status)
        for name, value in {"Content-Length": str(len(content)), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@contextmanager
def remote_server(**routes: Route) -> Iterator[RemoteServer]:
    """One with these routes until the block ends; `chat` is the long one."""
    paths = {"chat": "/chat/completions"}
    server = RemoteServer({paths.get(name, f"/{name}"): route for name, route in routes.items()})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()


def in_turn(*replies: Reply) -> Route:
    """A route that gives one answer after the other, and the last one again and again."""
    left = list(replies)
    lock = threading.Lock()

    def route(body: Any) -> Reply:
        with lock:
            return left.pop(0) if len(left) > 1 else left[0]

    return route


YES_NO = (Option("Yes", "it is right", 1.0), Option("No", "", 0.0))
CHOICES = (Option("loops", "repeating"), Option("classes"), Option("Correct but short", 'with "quotes"'))
ONE_TO_FIVE = tuple(Option(str(i), f"level {i}", float(i)) for i in range(1, 6))
WORDS = (Option("bad", "wrong", 1.0), Option("fair", "", 2.0), Option("good", "right", 3.0))


def a_question(text: str = "a loop repeats", kind: str = "yes_no", options: tuple[Option, ...] = YES_NO) -> Question:
    return Question(
        instructions="Judge whether the answer is right.",
        sections=(Section("question", "What is a loop?"), Section("answer", text)),
        nonce="a1b2c3",
        reminder="Your verdict:",
        options=options,
        kind=kind,  # type: ignore[arg-type]
    )
