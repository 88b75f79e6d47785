"""Updates while clients are at work: nobody notices."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter

import httpx
import pytest
from openai import AsyncOpenAI

pytestmark = pytest.mark.slow

STREAMING, PLAIN = 8, 24
UPDATES = 3
REQUESTS = 2000
PATIENCE_S = 300


class Load:
    """Clients that ask until they are told to stop."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.outcomes: Counter[str] = Counter()
        self.stopped = threading.Event()
        self.enough = threading.Event()

    def run(self) -> None:
        asyncio.run(self._all())

    async def _all(self) -> None:
        clients = [self._streaming() for _ in range(STREAMING)] + [self._plain(number) for number in range(PLAIN)]
        await asyncio.gather(*clients)

    async def _streaming(self) -> None:
        async with AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none") as client:
            while not self.stopped.is_set():
                chunks = await client.completions.create(model="m", prompt="A loop", max_tokens=8, stream=True)
                reasons = [chunk.choices[0].finish_reason async for chunk in chunks if chunk.choices]
                self._count("ok" if reasons[-1] else "stream cut")

    async def _plain(self, number: int) -> None:
        """With a kept connection, no retries, and pauses in which the connection is idle."""
        draw = random.Random(number)
        async with httpx.AsyncClient(base_url=self.url, timeout=60) as client:
            while not self.stopped.is_set():
                try:
                    answer = await client.post("/v1/completions", json={"prompt": "A", "max_tokens": 1})
                    self._count("ok" if answer.status_code == 200 else f"status {answer.status_code}")
                except httpx.HTTPError as error:
                    self._count(repr(error))
                await asyncio.sleep(draw.expovariate(3))

    def _count(self, outcome: str) -> None:
        self.outcomes[outcome] += 1
        if self.outcomes.total() >= REQUESTS:
            self.enough.set()


def test_updates_lose_no_request(client, deployed, chat_model):
    load = Load(deployed("chat", chat_model)["url"])
    thread = threading.Thread(target=load.run)
    thread.start()
    try:
        for number in range(UPDATES):
            shown = client.update_deployment("chat", config={"labels": {"update": number}})
            assert shown["status"] == "ready"
        assert load.enough.wait(PATIENCE_S)
    finally:
        load.stopped.set()
        thread.join(60)
    print(dict(load.outcomes))
    assert set(load.outcomes) == {"ok"}, load.outcomes
