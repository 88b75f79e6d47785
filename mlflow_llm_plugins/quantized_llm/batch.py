"""Many requests of one call, a bounded number of them in the engine at the same time; answers in order of requests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from mlflow_llm_plugins.errors import EngineUnavailableError, LLMError, QueueFullError, located
from mlflow_llm_plugins.generation import GenerationEngine, GenerationOutput, GenerationRequest, GenerationStream
from mlflow_llm_plugins.generation.call_scope import current_scope, in_current_scope

_SHORT = 16  # up to so many requests nobody wants a progress bar
_PATIENCE_S = 60.0


def generate_all(
    engine: GenerationEngine, requests: Sequence[GenerationRequest], max_in_flight: int, unit: str
) -> list[GenerationOutput]:
    """Run all requests together and wait for them; on a terminal, many of them show a progress bar.

    Args:
        engine: Shared with other callers: where its queue is full, we go on as ours leave it.
        requests: At least one.
        max_in_flight: Ours that are open at the same time, at least 1.
        unit: What one of them is to the caller, for messages and the bar: "row" or "choice".

    Raises:
        InvalidInputError: One of them can never be answered; found before the first is submitted.
        LLMError: The first failure; of several requests it has the number. All others are cancelled and have
            left the engine when it is raised.
        QueueFullError: The queue is full of others' requests.
    """
    scope = current_scope()
    requests = scope.admit(requests)
    total = len(requests)
    for i, request in enumerate(requests):
        with numbered(unit, i, total):
            engine.check(request)  # all of them before the first is submitted
    size = scope.window(max_in_flight)
    with _progress_bar(total, unit) as bar, _Window(engine, size, lambda i: numbered(unit, i, total), bar) as window:
        outputs = window.run(enumerate(requests))
    scope.finished([outputs[i] for i in range(total)])
    return [outputs[i] for i in range(total)]


def generate_each(
    engine: GenerationEngine,
    requests: Sequence[GenerationRequest | LLMError],
    max_in_flight: int,
    unit: str,
    *,
    progress: bool = True,
) -> list[GenerationOutput | LLMError]:
    """Run all requests together as `generate_all` does; one that fails becomes its error and leaves the others alone.

    Args:
        engine: As in `generate_all`. Where it dies, or others fill its queue, what is left fails at once.
        requests: An error stands for one that could not be made, and is returned in its place.
        max_in_flight: As in `generate_all`; with 1 each has the engine to itself.
        unit: As in `generate_all`.
        progress: Whether a terminal may show a bar.
    """
    scope = current_scope()
    made = {i: request for i, request in enumerate(requests) if not isinstance(request, LLMError)}
    failed = {i: error for i, error in enumerate(requests) if isinstance(error, LLMError)}
    admitted = dict(zip(made, scope.admit(list(made.values())), strict=True))
    size = scope.window(max_in_flight)
    with (
        _progress_bar(len(made), unit, progress) as bar,
        _Window(engine, size, lambda i: _kept(failed, i, bar), bar) as window,
    ):
        outputs = window.run(admitted.items())
    scope.finished(list(outputs.values()))
    return [outputs[i] if i in outputs else failed[i] for i in range(len(requests))]


@contextmanager
def numbered(unit: str, index: int, total: int) -> Iterator[None]:
    """Let errors leave the block with the number of the row or choice that they are about, where there are several."""
    try:
        yield
    except (QueueFullError, EngineUnavailableError):
        raise  # not about this one
    except LLMError as error:
        if total == 1:
            raise
        raise located(error, f"{unit} {index} (counting from 0)") from error


@contextmanager
def _kept(failed: dict[int, LLMError], index: int, bar: Any) -> Iterator[None]:
    """Let no error of ours leave the block, but keep it under its number."""
    try:
        yield
    except LLMError as error:
        failed[index] = error
        bar.update()


def _progress_bar(total: int, unit: str, wanted: bool = True) -> Any:
    from tqdm import tqdm  # comes with transformers, which every engine that can be slow needs

    disable = None if wanted and total > _SHORT else True  # None: shown on a terminal only
    return tqdm(total=total, unit=unit, desc="Generating", disable=disable)


class _Window:
    """The requests of one call that are in the engine now."""

    def __init__(
        self, engine: GenerationEngine, size: int, guard: Callable[[int], AbstractContextManager[None]], bar: Any
    ) -> None:
        """Nothing is open.

        Args:
            engine: Runs them.
            size: So many are open at the same time.
            guard: Stands around each step of the request with the number; what it lets through ends the call.
            bar: Told of each answer.
        """
        self._engine = engine
        self._size = size
        self._guard = guard
        self._bar = bar
        self._open: dict[int, GenerationStream] = {}
        self._ended: SimpleQueue[int] = SimpleQueue()  # numbers of open ones that have ended, in that order
        self._outputs: dict[int, GenerationOutput] = {}

    def __enter__(self) -> _Window:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing of ours in the engine."""
        for stream in self._open.values():
            stream.cancel()
        for stream in self._open.values():
            with suppress(LLMError):
                stream.result()

    def run(self, requests: Iterable[tuple[int, GenerationRequest]]) -> dict[int, GenerationOutput]:
        """Wait for all requests and return the outputs by number, without those whose failure the guard kept."""
        for index, request in requests:
            self._submit(index, request)
        while self._open:
            self._collect_next()
        return self._outputs

    def _submit(self, index: int, request: GenerationRequest) -> None:
        """Hand the request to the engine, after waiting for room."""
        while len(self._open) >= self._size:
            self._collect_next()
        while self._is_kept_out(index, request):
            self._collect_next()

    def _is_kept_out(self, index: int, request: GenerationRequest) -> bool:
        """Try to submit; True where the queue is full and one of ours will leave it."""
        with self._guard(index):
            try:
                self._open[index] = in_current_scope(self._engine.submit(request))
            except QueueFullError:
                if not self._open:
                    raise
                return True
            self._open[index].add_done_callback(partial(self._ended.put, index))
        return False

    def _collect_next(self) -> None:
        """Take the next answer that is there, whichever it is: one long answer must not keep the others waiting."""
        index = self._next_ended()
        with self._guard(index):
            self._outputs[index] = self._open[index].result()
            self._bar.update()
        del self._open[index]

    def _next_ended(self) -> int:
        while True:
            try:
                index = self._ended.get(timeout=_PATIENCE_S)
            except Empty:  # an engine that says nothing; waiting for one answer ends at its deadline
                return next(iter(self._open))
            if index in self._open:  # not taken by such a wait
                return index
