"""Stands for uvicorn with a model: answers at once, and misbehaves as the files of a directory say.

    python fake_server.py PORT ...

Environment: FAKE_NAME, what it answers; FAKE_CONTROL, a directory in which these files matter:
    broken   it fails at its start
    taken    it finds its port taken, once
    loud     it says a lot at its start
    orphan   it starts a process that does not end with it
    loading  it does not open its port yet
    warming  `/ready` answers 503
    foreign  `/ready` and `/health` are not there
    silent   nothing is answered any more
    dead     `/health` answers 503
    held     `/slow` is not answered yet
    stubborn it does not mind SIGTERM
It writes there: asked (`/slow` was), let_go (SIGUSR1 came), orphan.pid.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CONTROL = Path(os.environ["FAKE_CONTROL"])
REFUSED_WHILE = {"/ready": "warming", "/health": "dead"}


def told(name: str) -> bool:
    return (CONTROL / name).exists()


def wait_while(name: str) -> None:
    while told(name):
        time.sleep(0.02)


def status_of(path: str) -> int:
    if path not in REFUSED_WHILE:
        return 200
    if told("foreign"):
        return 404
    return 503 if told(REFUSED_WHILE[path]) else 200


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        wait_while("silent")
        if self.path == "/slow":
            (CONTROL / "asked").touch()
            wait_while("held")
        self.send_response(status_of(self.path))
        self.end_headers()
        self.wfile.write(os.environ["FAKE_NAME"].encode())

    def log_message(self, *_: object) -> None:
        pass


class FakeServer(ThreadingHTTPServer):
    daemon_threads = False  # what is open ends first


def begin() -> None:
    print("begins", os.environ["FAKE_NAME"], flush=True)
    if told("taken"):
        (CONTROL / "taken").unlink()
        sys.exit("[Errno 98] error while attempting to bind on address: address already in use")
    if told("broken"):
        raise ValueError("the model is broken")
    if told("loud"):
        print(("x" * 99 + "\n") * 10_000, "told it all", flush=True)
    if told("orphan"):
        orphan = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        (CONTROL / "orphan.pid").write_text(str(orphan.pid))
    wait_while("loading")


def main() -> None:
    begin()
    server = FakeServer(("127.0.0.1", int(sys.argv[1])), Handler)
    signal.signal(signal.SIGUSR1, lambda *_: (CONTROL / "let_go").touch())
    signal.signal(signal.SIGTERM, lambda *_: told("stubborn") or threading.Thread(target=server.shutdown).start())
    server.serve_forever(poll_interval=0.02)
    server.server_close()


if __name__ == "__main__":
    main()
