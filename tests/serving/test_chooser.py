"""The queue in front of `engine.choose`."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from mlflow_llm_plugins.errors import InvalidInputError, QueueFullError
from mlflow_llm_plugins.generation import ChoiceScores
from mlflow_llm_plugins.serving.chooser import Chooser

WAIT_S = 30


class Engine:
    """Scores a tail with the number in its stem and refuses a stem of -1; the first call waits to be let go."""

    def __init__(self):
        self.calls, self.entered, self.may_go = [], threading.Event(), threading.Event()

    def choose(self, stems, tails):
        self.calls.append(len(stems))
        if len(self.calls) == 1:
            self.entered.set()
            assert self.may_go.wait(WAIT_S)
        if [-1] in stems:
            raise InvalidInputError("no such stem")
        return [ChoiceScores(float(stem[0]) for _ in own) for stem, own in zip(stems, tails, strict=True)]


def run(main, max_open=1000):
    """Run a test against a chooser, whose first call waits until the test lets it go."""

    async def around():
        engine = Engine()
        with ThreadPoolExecutor(1) as thread:
            try:
                await asyncio.wait_for(main(engine, Chooser(engine, thread, max_open)), WAIT_S)
            finally:
                engine.may_go.set()

    asyncio.run(around())


async def ask(chooser, *numbers):
    scores = await chooser.choose([[number] for number in numbers], [[[1], [2]]] * len(numbers))
    assert scores == [(float(number), float(number)) for number in numbers]


def test_what_waits_meanwhile_is_scored_in_one_call_and_each_gets_its_own():
    async def main(engine, chooser):
        first = asyncio.create_task(ask(chooser, 1))
        await asyncio.to_thread(engine.entered.wait, WAIT_S)
        others = [asyncio.create_task(ask(chooser, *range(i, i + 3))) for i in range(2, 20)]
        await asyncio.sleep(0)
        engine.may_go.set()
        await asyncio.gather(first, *others)
        assert engine.calls == [1, 54]

    run(main)


def test_a_request_that_cannot_be_scored_fails_alone():
    async def main(engine, chooser):
        engine.may_go.set()
        results = await asyncio.gather(ask(chooser, 1), ask(chooser, -1), ask(chooser, 2), return_exceptions=True)
        assert [type(result) for result in results] == [type(None), InvalidInputError, type(None)]

    run(main)


def test_a_question_too_many_is_refused_and_room_comes_back():
    async def main(engine, chooser):
        first = asyncio.create_task(ask(chooser, 1, 2))
        await asyncio.to_thread(engine.entered.wait, WAIT_S)
        with pytest.raises(QueueFullError, match="2 questions are open, of 3 that may be"):
            await ask(chooser, 3, 4)
        engine.may_go.set()
        await first
        await ask(chooser, 3, 4)
        await ask(chooser, 5, 6, 7, 8)  # one request alone may be as large as it is

    run(main, max_open=3)


def test_a_request_that_is_given_up_is_not_scored():
    async def main(engine, chooser):
        first = asyncio.create_task(ask(chooser, 1))
        await asyncio.to_thread(engine.entered.wait, WAIT_S)
        given_up = asyncio.create_task(ask(chooser, 2))
        await asyncio.sleep(0)
        given_up.cancel()
        last = asyncio.create_task(ask(chooser, 3))
        await asyncio.sleep(0)
        engine.may_go.set()
        await asyncio.gather(first, last)
        assert engine.calls == [1, 1]

    run(main)
