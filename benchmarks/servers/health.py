"""How soon a server says that it is well, while it answers a load."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

EVERY_S = 0.05
TIMEOUT_S = 10.0  # what a probe counts that fails or is not answered with 200


@contextmanager
def probed(url: str) -> Iterator[list[float]]:
    """Ask GET `url` every `EVERY_S` seconds over one connection until the block ends, on a thread of its own.

    Yields:
        Seconds until each answer, filled meanwhile. A probe that is due while the last one waits counts from when it
        was due: a server that stands still for a second is late many times.
    """
    latencies: list[float] = []
    done = threading.Event()
    thread = threading.Thread(target=_probe, args=(url, latencies, done), daemon=True)
    thread.start()
    try:
        yield latencies
    finally:
        done.set()
        thread.join(2 * TIMEOUT_S)


def _probe(url: str, latencies: list[float], done: threading.Event) -> None:
    with httpx.Client(timeout=TIMEOUT_S, trust_env=False) as client:
        _is_well(client, url)  # opens the connection
        due = time.perf_counter()
        while True:
            early_s = due - time.perf_counter()
            if done.wait(max(0.0, early_s)):
                return
            began = due if early_s < 0 else time.perf_counter()
            is_well = _is_well(client, url)
            latencies.append(time.perf_counter() - began if is_well else TIMEOUT_S)
            due += EVERY_S


def _is_well(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(url).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
