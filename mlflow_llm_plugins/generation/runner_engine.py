"""The engine that all have in common: admission, open requests, deadlines, scoring; a runner makes the tokens."""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlflow_llm_plugins.errors import (
    EngineLostError,
    EngineUnavailableError,
    GenerationError,
    InvalidInputError,
    PromptTooLongError,
)
from mlflow_llm_plugins.generation.admission import Admission
from mlflow_llm_plugins.generation.encoding import Encoder
from mlflow_llm_plugins.generation.engine import ChoiceScores, EngineState, EngineStats, Text, TokenScores
from mlflow_llm_plugins.generation.open_requests import OpenRequests
from mlflow_llm_plugins.generation.requests import GenerationRequest
from mlflow_llm_plugins.generation.runner import Runner
from mlflow_llm_plugins.generation.scoring.choice_tree import ChoiceRow
from mlflow_llm_plugins.generation.scoring.interface import Scoring
from mlflow_llm_plugins.generation.settings import EngineSettings
from mlflow_llm_plugins.generation.stream import TokenStream
from mlflow_llm_plugins.generation.watchdog import Watchdog

_CLOSED = "The engine is closed."
_MOST_ALTERNATIVES = 128  # of one place, as in a GenerationRequest


def _nothing() -> None:
    """Nothing else is to be closed."""


class RunnerEngine:
    """A `GenerationEngine` over one loaded causal model; all methods may be called from any thread."""

    def __init__(
        self,
        runner: Runner,
        tokenizer: Any,
        admission: Admission,
        scorer: Scoring,
        settings: EngineSettings,
        on_close: Callable[[], None] = _nothing,
    ) -> None:
        """Put the parts together.

        Args:
            runner: Makes the tokens; closed with the engine.
            tokenizer: A fast one.
            admission: What may join.
            scorer: Scores texts and choices; closed with the engine.
            settings: Limits of queue, steps and restarts.
            on_close: Called once after the runner has been closed; must not hold the engine.
        """
        self._runner = runner
        self._tokenizer = tokenizer
        self._admission = admission
        self._scorer = scorer
        self._encoder = Encoder(tokenizer)
        self._open = OpenRequests(settings.max_queue_size)
        self._watchdog = Watchdog(runner, self._open, settings.step_timeout_s, settings.max_restarts)
        self._closed = self._draining = False
        # The threads must not hold the engine, which is collected when nobody uses it.
        self._finalizer = weakref.finalize(self, _shut_down, self._watchdog, self._open, runner, on_close)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer; read only."""
        return self._tokenizer

    def check(self, request: GenerationRequest) -> None:
        """Raise if the request cannot be admitted; see `GenerationEngine.check`."""
        self._admission.admit(request)

    def submit(self, request: GenerationRequest) -> TokenStream:
        """Queue a request; see `GenerationEngine.submit`."""
        self._refuse_if_unavailable()  # before the request is read: reading a constraint may take long
        self._open.refuse_if_full()
        stream = TokenStream(self._admission.admit(request), self._tokenizer, on_end=self._forget)
        self._refuse_if_unavailable()
        self._open.add(stream)
        try:
            self._watchdog.look()
            self._runner.start(stream)
        except BaseException as error:
            stream.fail(GenerationError(f"The request could not be started: {type(error).__name__}: {error}"))
            raise
        if self._closed:  # meanwhile: close() may have looked before this one was there
            stream.fail(EngineLostError(_CLOSED))
        return stream

    def score(self, texts: Sequence[Text], top_logprobs: int = 0) -> list[TokenScores]:
        """Log-probabilities of given tokens; see `GenerationEngine.score`."""
        _refuse_bare_string("score", "texts", texts)
        if not 0 <= top_logprobs <= _MOST_ALTERNATIVES:
            raise InvalidInputError(f"top_logprobs must be from 0 to {_MOST_ALTERNATIVES}, got {top_logprobs!r}.")
        return self._scorer.score([self._checked(self._encoder.encode(text)) for text in texts], top_logprobs)

    def logits(self, token_ids: Sequence[int], first: int = 1) -> Iterator[NDArray[np.float32]]:
        """Raw logits of one text, some places at a time; see `GenerationEngine.logits`."""
        ids = self._checked(token_ids)
        return self._scorer.logits(ids, _index_of_target(first, len(ids)))

    def choose(
        self, prompts: Sequence[Text], choices: Sequence[Text] | Sequence[Sequence[Text]]
    ) -> list[ChoiceScores]:
        """Log-probabilities of choices; see `GenerationEngine.choose`."""
        _refuse_bare_string("choose", "prompts", prompts)
        _refuse_bare_string("choose", "choices", choices)
        rows = self._encoder.choice_rows(prompts, choices)
        return self._scorer.choose([self._checked_row(row) for row in rows])

    def stats(self) -> EngineStats:
        """A snapshot of what is running."""
        running = [stream for stream in self._open.all() if stream.received]
        return EngineStats(
            engine=self._runner.name,
            state=self._state(),
            open_requests=len(self._open),
            running_requests=len(running),
            max_context_length=self._admission.max_context_length,
            cache_tokens=self._runner.cache_tokens or 0,
            cache_used_tokens=sum(len(stream.request.prompt_ids) + stream.received for stream in running),
            weight_bytes=self._scorer.weight_bytes,
            restarts=self._watchdog.restarts,
            failure=None if self._closed else self._watchdog.failure(),
        )

    def drain(self, timeout_s: float) -> bool:
        """Take nothing new and let what is open finish; see `GenerationEngine.drain`."""
        self._draining = True
        return self._open.wait_until_none(timeout_s)

    def close(self) -> None:
        """Fail what is open, then stop the runner."""
        self._closed = True
        self._finalizer()
        self._scorer.close()

    def _state(self) -> EngineState:
        if self._closed:
            return "closed"
        if self._watchdog.failure() is None:
            return "draining" if self._draining else "running"
        return "stalled" if self._watchdog.is_stalled else "restarting" if self._watchdog.is_restarting else "dead"

    def _refuse_if_unavailable(self) -> None:
        if self._closed:
            raise EngineUnavailableError(_CLOSED)
        if self._draining:
            raise EngineUnavailableError("The engine is draining: it finishes what is open and takes nothing new.")
        if failure := self._watchdog.failure():
            raise EngineUnavailableError(failure)

    def _forget(self, stream: TokenStream) -> None:
        self._open.discard(stream)
        self._runner.release(stream)

    def _checked(self, token_ids: Sequence[int]) -> list[int]:
        ids = self._admission.check_ids(token_ids)
        limit = self._admission.max_context_length
        if len(ids) > limit:
            raise PromptTooLongError(
                f"A text of {len(ids)} tokens is longer than the context of {limit}. Cut it, or score it in windows."
            )
        return ids

    def _checked_row(self, row: ChoiceRow) -> ChoiceRow:
        self._checked([*row.stem, *max(row.tails, key=len)])
        for tail in row.tails:
            self._admission.check_ids(tail)
        return row


def _shut_down(watchdog: Watchdog, open_requests: OpenRequests, runner: Runner, on_close: Callable[[], None]) -> None:
    watchdog.close()
    for stream in open_requests.all():
        stream.fail(EngineLostError("The engine was closed."))
    try:
        runner.close()
    finally:
        on_close()


def _index_of_target(first: Any, tokens: int) -> int:
    try:
        index = operator.index(first)
    except TypeError:
        index = 0
    if not 1 <= index <= tokens:
        raise InvalidInputError(
            f"first must be a whole number from 1 to the number of tokens, here {tokens}, got {first!r}."
        )
    return index


def _refuse_bare_string(method: str, name: str, value: Any) -> None:
    if isinstance(value, str):
        raise InvalidInputError(
            f"{method}() takes a list of {name}, got the string {value[:40]!r}. Write [{name[:-1]}]."
        )
