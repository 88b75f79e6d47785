"""Work that ends with the client that asked for it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

from starlette.requests import Request

T = TypeVar("T")


class ClientGoneError(Exception):
    """The client closed the connection before its answer was there."""


async def unless_disconnected(request: Request, work: Coroutine[None, None, T]) -> T:
    """Do the work, or stop it as soon as the client is gone.

    Args:
        request: Its body must have been read.
        work: Cancelled where the client is gone or the caller is cancelled; has ended when this returns.

    Raises:
        ClientGoneError: Nobody waits for the result any more.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return task.result()
    finally:
        pending = {each for each in (task, gone) if not each.done()}
        for each in pending:
            each.cancel()
        if pending:
            await asyncio.wait(pending)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
