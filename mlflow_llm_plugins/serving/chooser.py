"""The queue in front of `engine.choose`: what waits at the same time is scored in one call."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from mlflow_llm_plugins.errors import QueueFullError
from mlflow_llm_plugins.generation import ChoiceScores, GenerationEngine

T = TypeVar("T")

_TOGETHER = 64  # questions of one call, unless one request has more


@dataclass(frozen=True, slots=True, eq=False)
class _Questions:
    """Those of one request."""

    stems: Sequence[list[int]]
    tails: Sequence[Sequence[list[int]]]
    scores: asyncio.Future[list[ChoiceScores]]


class Chooser:
    """Scores the labels of questions; belongs to the event loop.

    The engine scores one call at a time. Requests that ask the same rubric of different states share its computation
    only within a call, so those that come while one runs go together into the next.
    """

    def __init__(self, engine: GenerationEngine, thread: Executor, max_open: int) -> None:
        """Begin empty.

        Args:
            engine: Scores.
            thread: Where it does.
            max_open: Questions that fit.
        """
        self._engine = engine
        self._max_open = max_open
        self._open = 0
        self._waiting: deque[_Questions] = deque()
        self._thread = thread
        self._task: asyncio.Task[None] | None = None

    async def choose(self, stems: Sequence[list[int]], tails: Sequence[Sequence[list[int]]]) -> list[ChoiceScores]:
        """Log-probabilities of each stem's tails.

        Raises:
            QueueFullError: As many questions as allowed are open.
            LLMError: As `GenerationEngine.choose`.
        """
        with self._room(len(stems)):
            questions = _Questions(stems, tails, asyncio.get_running_loop().create_future())
            self._waiting.append(questions)
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._score_all())
            try:
                return await questions.scores
            finally:
                if questions in self._waiting:  # given up
                    self._waiting.remove(questions)

    async def score(self, count: int, call: Callable[[], T]) -> T:
        """Have something else scored, `count` texts, when it is its turn.

        Raises:
            QueueFullError: As many questions and texts as allowed are open.
        """
        with self._room(count):
            return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    @contextmanager
    def _room(self, count: int) -> Iterator[None]:
        if self._open and self._open + count > self._max_open:
            raise QueueFullError(f"{self._open} questions are open, of {self._max_open} that may be. Try again later.")
        self._open += count
        try:
            yield
        finally:
            self._open -= count

    async def _score_all(self) -> None:
        while batch := self._next_batch():
            if not await self._score(batch):
                for questions in batch:  # one of them cannot be scored: each alone, so that it harms no other
                    await self._score([questions])

    def _next_batch(self) -> list[_Questions]:
        batch: list[_Questions] = []
        count = 0
        while self._waiting and (not batch or count + len(self._waiting[0].stems) <= _TOGETHER):
            questions = self._waiting.popleft()
            if not questions.scores.cancelled():
                batch.append(questions)
                count += len(questions.stems)
        return batch

    async def _score(self, batch: Sequence[_Questions]) -> bool:
        """Whether it could be done together; of a single request, an error is its own."""
        stems = [stem for questions in batch for stem in questions.stems]
        tails = [tail for questions in batch for tail in questions.tails]
        loop = asyncio.get_running_loop()
        try:
            scores = iter(await loop.run_in_executor(self._thread, self._engine.choose, stems, tails))
        except Exception as error:
            if len(batch) > 1:
                return False
            if not batch[0].scores.done():
                batch[0].scores.set_exception(error)
            return True
        for questions in batch:
            own = [next(scores) for _ in questions.stems]
            if not questions.scores.done():
                questions.scores.set_result(own)
        return True
