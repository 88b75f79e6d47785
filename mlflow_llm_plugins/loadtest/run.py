"""A load from its first request to its last: closed loops, open loops, and what ends them early."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from mlflow_llm_plugins.loadtest.bodies import Prompt, request_bodies
from mlflow_llm_plugins.loadtest.requirements import require
from mlflow_llm_plugins.loadtest.results import LoadResult, RequestResult
from mlflow_llm_plugins.loadtest.settings import Load, Target

if TYPE_CHECKING:
    from mlflow_llm_plugins.loadtest.connection import Connection

_logger = logging.getLogger(__name__)


class LoadInterrupted(KeyboardInterrupt):
    """Ctrl-C ended a load; `result` has the requests that had ended by then, maybe none."""

    def __init__(self, result: LoadResult) -> None:
        super().__init__("The load was interrupted.")
        self.result = result


def run_load(
    target: Target,
    load: Load,
    prompts: Sequence[Prompt] | None = None,
    on_result: Callable[[RequestResult], None] | None = None,
) -> LoadResult:
    """Send the load's requests and measure the answers; requests that fail are results too, and stop nothing.

    Returns when every request has ended, each `target.timeout_s` seconds after it was sent at the latest. Starts an
    event loop of its own, so it cannot be called inside of one.

    Args:
        target: The server.
        load: How many requests, in which rhythm.
        prompts: Texts, lists of token ids, or whole bodies, used in turn; None: made up from `load.seed`.
        on_result: Called with each measured result as it comes, on this thread; time spent here delays the load.

    Raises:
        InvalidInputError: Prompts that the route does not take, or an API key that is not there.
        MissingDependencyError: httpx is not installed.
        LoadInterrupted: Ctrl-C; it is a KeyboardInterrupt and has what was measured so far.
    """
    require("httpx")
    bodies = request_bodies(target, load, prompts)
    run = _Run(target, load, on_result)
    try:
        asyncio.run(run.all(bodies))
    except KeyboardInterrupt:
        raise LoadInterrupted(run.result(interrupted=True)) from None
    return run.result()


def send_times(load: Load) -> list[float]:
    """Seconds after the start at which an open loop's requests are due, the first one at once.

    The gaps are drawn from an exponential distribution, so arrivals are those of a Poisson process; the same seed
    gives the same times.
    """
    assert load.rate is not None
    draw = random.Random(f"arrivals {load.seed}")
    gaps = (draw.expovariate(load.rate) for _ in range(load.requests - 1))
    return list(itertools.accumulate(gaps, initial=0.0))


@dataclass(slots=True)
class _Run:
    """A load while it runs."""

    target: Target
    load: Load
    on_result: Callable[[RequestResult], None] | None
    results: list[RequestResult] = field(default_factory=list)
    date: str = ""
    began: float = 0.0  # on the clock of requests
    cpu_began: float = field(default_factory=time.process_time)

    async def all(self, bodies: Sequence[bytes]) -> None:
        from mlflow_llm_plugins.loadtest.connection import connected, now

        async with connected(self.target) as connection:
            await self._warm_up(connection, bodies[self.load.requests :])
            self.date = datetime.now(timezone.utc).isoformat(timespec="seconds")
            self.cpu_began, self.began = time.process_time(), now()
            await self._measure(connection, bodies[: self.load.requests])

    def result(self, interrupted: bool = False) -> LoadResult:
        return LoadResult(
            target=self.target,
            load=self.load,
            requests=tuple(self.results),
            date=self.date,
            cpu_s=time.process_time() - self.cpu_began,
            interrupted=interrupted,
        )

    async def _warm_up(self, connection: Connection, bodies: Sequence[bytes]) -> None:
        failures: Counter[str] = Counter()

        async def send(body: bytes) -> None:
            failures[(await connection.ask(body, began=0.0)).failure] += 1

        await closed_loop(send, bodies, self.load.clients or 1)
        del failures[""]
        if failures:
            _logger.warning("Of %d requests to warm up some failed: %s", len(bodies), dict(failures))

    async def _measure(self, connection: Connection, bodies: Sequence[bytes]) -> None:
        if self.load.clients is not None:
            await closed_loop(lambda body: self._ask(connection, body), bodies, self.load.clients)
        else:
            await open_loop(lambda body, due: self._ask(connection, body, due), bodies, send_times(self.load))

    async def _ask(self, connection: Connection, body: bytes, due: float | None = None) -> None:
        result = await connection.ask(body, self.began, due)
        self.results.append(result)
        if self.on_result is not None:
            self.on_result(result)


async def closed_loop(send: Callable[[bytes], Awaitable[None]], bodies: Sequence[bytes], clients: int) -> None:
    """Send all bodies, `clients` of them at a time."""
    left = iter(bodies)

    async def client() -> None:
        for body in left:  # shared, so that each body is sent by whoever is free first
            await send(body)

    await asyncio.gather(*(client() for _ in range(min(clients, len(bodies)))))


async def open_loop(
    send: Callable[[bytes, float], Awaitable[None]], bodies: Sequence[bytes], times: Sequence[float]
) -> None:
    """Send each body when it is due, seconds after the start, however many are not answered yet."""
    clock = asyncio.get_running_loop().time
    began = clock()
    tasks: list[asyncio.Future[None]] = []
    try:
        for body, due in zip(bodies, times, strict=True):
            await asyncio.sleep(began + due - clock())
            tasks.append(asyncio.ensure_future(send(body, due)))
        await asyncio.gather(*tasks)
    finally:  # interrupted: before the connections close under those that still run
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
