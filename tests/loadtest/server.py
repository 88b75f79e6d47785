"""A small HTTP server that answers like OpenAI's API, well or badly as the model name in the request says."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

PIECES = ("A", " loop", ' says "finish_reason":"stop"', "", ' and "error".')  # chunks, one without content
TOKENS = 9  # more than chunks
STEP_S = 0.02  # before each chunk
USAGE = {"prompt_tokens": 5, "completion_tokens": TOKENS, "total_tokens": 5 + TOKENS}
STOP_S = 10.0

Chunk = dict[str, Any]


class OpenAIServer:
    """What was asked; changed by the server's thread, so read it when the answers are there."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.bodies: list[Chunk] = []
        self.headers: list[dict[str, str]] = []
        self.most_waiting = 0
        self.hanging = threading.Event()  # a request came that gets no answer
        self._waiting: list[asyncio.Event] = []

    async def answer(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        model = body.get("model", "steady")
        if model.startswith("together"):
            await self._wait_for(int(model.removeprefix("together")))
        if model in REFUSALS:
            return REFUSALS[model](body)
        if model == "hangs":
            self.hanging.set()
            while (await request.receive())["type"] != "http.disconnect":
                pass
        if not body.get("stream") or model == "never streams":
            return JSONResponse(whole(request.url.path, model))
        return StreamingResponse(STREAMS.get(model, steady)(request.url.path), media_type="text/event-stream")

    async def _wait_for(self, others: int) -> None:
        """Until so many requests wait here; then all of them go on."""
        came = asyncio.Event()
        self._waiting.append(came)
        self.most_waiting = max(self.most_waiting, len(self._waiting))
        if len(self._waiting) >= others:
            await asyncio.sleep(STEP_S)  # so that one too many would be seen
            for event in self._waiting:
                event.set()
            self._waiting.clear()
        await came.wait()


def busy(body: Chunk) -> Response:
    said = f"No room for {body}"
    return JSONResponse({"error": {"message": said, "type": "rate_limit", "param": None, "code": "full"}}, 429)


def broken(body: Chunk) -> Response:
    return Response("<html>", 500)


def malformed(body: Chunk) -> Response:
    return Response(b"data: {]\n\n", media_type="text/event-stream")


REFUSALS: dict[str, Callable[[Chunk], Response]] = {"busy": busy, "broken": broken, "malformed": malformed}


def whole(path: str, model: str) -> Any:
    """An answer in one piece; the scoring server of MLflow wraps it in a list."""
    if model == "pyfunc":
        return {"predictions": ["".join(PIECES)]}
    answer = {"choices": [{"index": 0, "text": "".join(PIECES), "finish_reason": "stop"}], "usage": USAGE}
    return [answer] if path == "/invocations" else answer


def piece(path: str, text: str, finish_reason: str | None = None) -> Chunk:
    said = {"delta": {"content": text}} if path.endswith("/chat/completions") else {"text": text}
    return {"choices": [{"index": 0, **said, "finish_reason": finish_reason}], "usage": None}


def event(chunk: Chunk) -> bytes:
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


async def steady(path: str) -> AsyncIterator[bytes]:
    """The role, the pieces, the finish reason, the usage, the end."""
    yield event(piece(path, ""))
    for text in PIECES:
        await asyncio.sleep(STEP_S)
        yield event(piece(path, text))
    yield event(piece(path, "", "length"))
    yield event({"choices": [], "usage": USAGE})
    yield b"data: [DONE]\n\n"


async def without_usage(path: str) -> AsyncIterator[bytes]:
    async for sent in steady(path):
        if json.dumps(USAGE).encode() not in sent:
            yield sent


async def like_transformers(path: str) -> AsyncIterator[bytes]:
    """No nulls, several chunks at once, the usage beside the finish reason, and no [DONE]."""
    chunks = [{"choices": [{"index": 0, "delta": {"content": text}}]} for text in PIECES if text]
    yield b"".join(map(event, chunks))
    yield event({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}], "usage": USAGE})


async def cut(path: str) -> AsyncIterator[bytes]:
    yield event(piece(path, "A"))


async def dies(path: str) -> AsyncIterator[bytes]:
    yield event(piece(path, "A"))
    raise ConnectionResetError("meant to happen")


async def fails(path: str) -> AsyncIterator[bytes]:
    yield event(piece(path, "A"))
    yield event({"error": {"message": "NaN in A", "code": "numbers"}})


async def says_nothing(path: str) -> AsyncIterator[bytes]:
    yield event(piece(path, ""))
    yield event(piece(path, "", "stop"))
    yield b"data: [DONE]\n\n"


STREAMS: dict[str, Callable[[str], AsyncIterator[bytes]]] = {
    "no usage": without_usage,
    "like transformers": like_transformers,
    "cut": cut,
    "dies": dies,
    "fails": fails,
    "says nothing": says_nothing,
}


@contextmanager
def openai_server() -> Iterator[OpenAIServer]:
    """A server on a free port of the loopback interface, until the block ends."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()  # from now on clients may come, even before the server looks
        fake = OpenAIServer(f"http://127.0.0.1:{listening.getsockname()[1]}")
        paths = ("/v1/chat/completions", "/v1/completions", "/invocations")
        app = Starlette(routes=[Route(path, fake.answer, methods=["POST"]) for path in paths])
        config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1, lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield fake
        finally:
            server.should_exit = True
            thread.join(STOP_S)
            assert not thread.is_alive(), f"the server still runs {STOP_S} s after it was asked to stop"
