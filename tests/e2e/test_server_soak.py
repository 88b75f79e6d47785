"""Thousands of mixed requests against one server: every one answered, nothing left behind, nothing that grows."""

from __future__ import annotations

import asyncio
import json
import random
import time

import httpx
import psutil
import pytest

from mlflow_llm_plugins import quantized_llm
from tests.e2e.serving import free_port, metric, ready, serve_command, served, uvicorn_of, wait_for

pytestmark = pytest.mark.slow

REQUESTS, WARM_UP, AT_ONCE = 2000, 400, 24
GROWTH = 1.05
WORDS = ["loop", "class", "module", "method", "object", "name", "value", "error", "file", "list"]


@pytest.fixture(scope="module")
def artifact(tiny_llama, tmp_path_factory):
    path = tmp_path_factory.mktemp("soak") / "model"
    # By default some threads come and go with what other processes do, as the clients of this test do much.
    config = {"max_new_tokens": 12, "spin_threads": False}
    quantized_llm.save_model(str(tiny_llama), str(path), bundle_plugin=False, engine_config=config)
    return path


def chat(draw, **options):
    text = " ".join(draw.choices(WORDS, k=draw.randint(1, 60)))
    return {"messages": [{"role": "user", "content": text}], "max_tokens": draw.randint(1, 12), **options}


async def whole(client, draw):
    body = chat(
        draw, temperature=draw.choice([0, 1]), n=draw.choice([1, 1, 3]), stop=draw.choice([None, ["a"], ["\n", "is"]])
    )
    response = await client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    assert len(response.json()["choices"]) == body["n"]


async def streamed(client, draw):
    body = chat(draw, stream=True, stream_options={"include_usage": True})
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200
        lines = [line async for line in response.aiter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert json.loads(lines[-2].removeprefix("data: "))["usage"]["completion_tokens"] <= body["max_tokens"]


async def left(client, draw):
    body = chat(draw, stream=draw.choice([True, False]), ignore_eos=True) | {"max_tokens": 300}
    try:
        async with asyncio.timeout(draw.uniform(0.01, 0.3)):
            async with client.stream("POST", "/v1/chat/completions", json=body) as response:
                async for _ in response.aiter_lines():
                    pass
    except TimeoutError:
        pass


async def bad(client, draw):
    body, status = draw.choice(
        [(b"{", 400), (b"[]", 400), (b'{"messages": []}', 400), (b"\xff\xfe\xff", 400), (b'{"messages": [1]}', 400)]
    )
    headers = {"content-type": "application/json"}
    path = draw.choice(["/v1/chat/completions", "/invocations"])
    assert (await client.post(path, content=body, headers=headers)).status_code == status


async def too_long(client, draw):
    response = await client.post("/v1/chat/completions", json=chat(draw) | {"max_tokens": 10**6})
    assert response.json()["error"]["code"] == "context_length_exceeded"


async def rows(client, draw):
    response = await client.post(
        "/invocations", json={"inputs": draw.choices(WORDS, k=4), "params": {"max_tokens": 4}}
    )
    assert len(response.json()["predictions"]) == 4


async def decided(client, draw):
    body = {
        "state": " ".join(draw.choices(WORDS, k=20)),
        "questions": {"a": {"type": "noul", "instructions": "A loop?"}},
    }
    assert 0 <= (await client.post("/v1/systemone", json=body)).json()["answers"]["a"]["noul"] <= 1


async def formed(client, draw):
    response = await client.post("/v1/chat/completions", json=chat(draw, choice=["yes", "no"]) | {"max_tokens": 8})
    assert response.json()["choices"][0]["message"]["content"] in ("yes", "no")


KINDS = [whole, whole, streamed, streamed, left, bad, too_long, rows, decided, formed]


async def load(url, count, seed):
    """Ask `count` requests, some at once; the number that were answered as they should be."""
    draw, answered, room = random.Random(seed), 0, asyncio.Semaphore(AT_ONCE)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=httpx.Limits(max_connections=None)) as client:

        async def ask(kind, own):
            nonlocal answered
            async with room:
                await kind(client, random.Random(own))
                answered += 1

        await asyncio.gather(*(ask(draw.choice(KINDS), draw.random()) for _ in range(count)))
    return answered


def at_rest(process, client):
    """Resident bytes and threads of the server, once nothing is open."""
    wait_for(lambda: metric(client, "requests_running") + metric(client, "requests_queued") == 0)
    time.sleep(0.5)  # for freed pages to go back
    return process.memory_info().rss, process.num_threads()


@pytest.mark.timeout(900)
def test_2000_mixed_requests_lose_no_answer_and_leave_nothing_behind(artifact, tmp_path):
    port = free_port()
    command = serve_command(str(artifact), port)
    with served(command, port, tmp_path / "log") as client:
        wait_for(lambda: ready(client))
        process = psutil.Process(uvicorn_of(command).pid)
        url = str(client.base_url)
        assert asyncio.run(load(url, WARM_UP, seed=1)) == WARM_UP
        memory, threads = at_rest(process, client)
        assert asyncio.run(load(url, REQUESTS, seed=2)) == REQUESTS
        later, threads_later = at_rest(process, client)
        print(f"RSS {memory / 2**20:.0f} -> {later / 2**20:.0f} MiB, threads {threads} -> {threads_later}")
        assert later < GROWTH * memory
        assert threads_later <= threads
        assert metric(client, "kv_cache_used_tokens") == 0
        assert client.get("/health").status_code == 200
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert "500 Internal" not in log
