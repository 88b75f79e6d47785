"""From the engine's threads to the event loop: however much is said meanwhile, the loop is woken once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any


class Mailbox:
    """Runs calls on an event loop, in order; `post` may be called from any thread and never waits.

    A step of the engine has a token for each of its requests. Waking the loop writes to a pipe, so one by one the
    wake-ups would cost the engine's thread more than the tokens.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """For this loop."""
        self.loop = loop
        self._posted: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._is_waking = False

    def post(self, call: Callable[..., None], *arguments: Any) -> None:
        """Have `call` called on the loop soon; dropped where the loop is closed already."""
        self._posted.append((call, arguments))
        if not self._is_waking:
            self._is_waking = True
            with suppress(RuntimeError):
                self.loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._is_waking = False  # first: what is posted from here on may come too late for this round
        while self._posted:
            call, arguments = self._posted.popleft()
            call(*arguments)
