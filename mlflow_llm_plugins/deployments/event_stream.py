"""Server-sent events, as the pieces of an answer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from mlflow_llm_plugins.deployments.address import Address
from mlflow_llm_plugins.deployments.failures import broken_off, failure_in_stream, unreadable

CONTENT_TYPE = "text/event-stream"
_DONE = b"[DONE]"


def pieces(lines: Iterable[bytes], path: str, address: Address) -> Iterator[dict[str, Any]]:
    """What the events hold, up to the last one.

    Args:
        lines: Of the body, without their ends.
        path: That was asked.
        address: Of the deployment.

    Raises:
        LLMError: An event tells of an error, or makes no sense; or the stream ends before it is done.
    """
    for data in _events(lines):
        if data == _DONE:
            return
        yield _piece(data, path, address)
    raise broken_off(address)


def _events(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The data of each event; comments, which show that a server lives, have none."""
    data: list[bytes] = []
    for line in lines:
        if line.startswith(b"data:"):
            data.append(line.removeprefix(b"data:").strip())
        elif not line and data:
            yield b"\n".join(data)
            data = []


def _piece(data: bytes, path: str, address: Address) -> dict[str, Any]:
    try:
        piece = json.loads(data)
    except ValueError:
        piece = None
    if not isinstance(piece, dict):
        raise unreadable("an event", "a JSON object", path, address)
    if "error" in piece:
        raise failure_in_stream(piece["error"], path, address)
    return piece
