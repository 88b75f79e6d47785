"""Work that ends with the client that asked for it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import NamedTuple, TypeVar

from starlette.requests import Request

from mlflow_llm_plugins.errors import RequestTimeoutError

T = TypeVar("T")


class ClientGoneError(Exception):
    """The client closed the connection before its answer was there."""


class TimeLimit(NamedTuple):
    """Of one request."""

    seconds: float
    setting: str  # that says so


async def unless_disconnected(request: Request, work: Coroutine[None, None, T], limit: TimeLimit) -> T:
    """Do the work, or stop it as soon as the client is gone.

    Args:
        request: Its body must have been read.
        work: Cancelled where the client is gone or the caller is cancelled; has ended when this returns.
        limit: Seconds that it may take.

    Raises:
        ClientGoneError: Nobody waits for the result any more.
        RequestTimeoutError: The time is over.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, timeout=limit.seconds, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if gone.done():
            raise ClientGoneError
        raise RequestTimeoutError(
            f"The request did not finish within {limit.seconds:g} s. Ask for less at once, or raise {limit.setting}."
        )
    finally:
        pending = {each for each in (task, gone) if not each.done()}
        for each in pending:
            each.cancel()
        if pending:
            await asyncio.wait(pending)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
