"""Many requests of one call, a bounded number of them in the engine at the same time, answers in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from mlflow_llm_plugins.errors import EngineUnavailableError, LLMError, QueueFullError
from mlflow_llm_plugins.generation import GenerationEngine, GenerationOutput, GenerationRequest, GenerationStream
from mlflow_llm_plugins.generation.call_scope import current_scope, in_current_scope

_SHORT = 16  # up to so many requests nobody wants a progress bar


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
    for i, request in enumerate(requests):
        with numbered(unit, i, len(requests)):
            engine.check(request)  # all of them before the first is submitted
    with _Window(engine, scope.window(max_in_flight), len(requests), unit) as window:
        for request in requests:
            window.submit(request)
        outputs = window.collect_all()
    scope.finished(outputs)
    return outputs


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
        raise type(error)(f"{unit} {index} (counting from 0): {error}") from error


class _Window:
    """The requests of one call that are in the engine now."""

    def __init__(self, engine: GenerationEngine, size: int, total: int, unit: str) -> None:
        from tqdm import tqdm  # comes with transformers, which every engine that can be slow needs

        self._engine = engine
        self._size = size
        self._total = total
        self._unit = unit
        self._open: deque[GenerationStream] = deque()
        self._outputs: list[GenerationOutput] = []
        disable = True if total <= _SHORT else None  # None: shown on a terminal only
        self._progress = tqdm(total=total, unit=unit, desc="Generating", disable=disable)

    def __enter__(self) -> _Window:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing of ours in the engine."""
        self._progress.close()
        for stream in self._open:
            stream.cancel()
        for stream in self._open:
            with suppress(LLMError):
                stream.result()

    def submit(self, request: GenerationRequest) -> None:
        """Hand the request to the engine, after waiting for room."""
        while len(self._open) >= self._size:
            self._collect_oldest()
        while (stream := self._try_submit(request)) is None:
            self._collect_oldest()
        self._open.append(stream)

    def collect_all(self) -> list[GenerationOutput]:
        """Wait for what is open and return all outputs in the order of submission."""
        while self._open:
            self._collect_oldest()
        return self._outputs

    def _try_submit(self, request: GenerationRequest) -> GenerationStream | None:
        """None where the queue is full and one of ours will leave it."""
        with numbered(self._unit, len(self._outputs) + len(self._open), self._total):
            try:
                return in_current_scope(self._engine.submit(request))
            except QueueFullError:
                if not self._open:
                    raise
                return None

    def _collect_oldest(self) -> None:
        with numbered(self._unit, len(self._outputs), self._total):
            self._outputs.append(self._open[0].result())
        self._open.popleft()
        self._progress.update()
