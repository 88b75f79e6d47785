"""The interface that every engine stands behind; nothing outside `generation/` knows which one runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from mlflow_llm_plugins.generation.requests import GenerationOutput, GenerationRequest, TokenEvent

Text = str | Sequence[int]  # a string, tokenised by the engine, or token ids as they are
Alternatives = tuple[tuple[int, float], ...]  # tokens that could stand in one place, the most probable first

EngineState = Literal["running", "draining", "restarting", "stalled", "dead", "closed"]


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot of what the engine is doing."""

    engine: str  # the key of ENGINES that runs, after any fallback
    state: EngineState
    open_requests: int  # waiting and generating
    running_requests: int  # of them, those that have a first token
    max_context_length: int  # tokens, prompt and answer together
    cache_tokens: int  # tokens that the KV cache holds for all requests together; 0 where there is none
    cache_used_tokens: int = 0  # of them, those of running requests
    weight_bytes: int = 0  # of the loaded model, as quantized: parameters and buffers; 0: not known
    restarts: int = 0  # of a generation thread that died
    failure: str | None = None  # why requests are refused; None while they are taken


class TokenScores(list[float]):
    """The log-probabilities of tokens 2 to n of one text, and the most probable tokens at each of their places."""

    __slots__ = ("top_logprobs",)

    def __init__(self, logprobs: Iterable[float] = (), top_logprobs: Sequence[Alternatives] = ()) -> None:
        """Put them together; one entry of `top_logprobs` a score, or none at all where none were asked for."""
        super().__init__(logprobs)
        self.top_logprobs = tuple(top_logprobs)


class ChoiceScores(tuple[float, ...]):
    """The log-probabilities of one prompt's choices, in their order, unnormalised."""

    __slots__ = ()

    @property
    def mass(self) -> float:
        """Probability that the model wants to answer with any of the choices at all.

        Only a probability where no choice begins another one; end such choices with a mark.
        """
        return math.fsum(math.exp(logprob) for logprob in self)


class GenerationStream(Protocol):
    """The answer to one request, while it is made."""

    def __iter__(self) -> Iterator[TokenEvent]:
        """Token events until the answer is finished; raises what `result` raises.

        The texts of all events are the text of the result: what was held back comes with the last one.
        """

    def listen(self, listener: Callable[[TokenEvent | None], None]) -> None:
        """Hand each event to `listener` instead of to whoever iterates, and None after the last one.

        Events that came before are handed over at once. It is called on the engine's thread, so it must neither
        wait nor raise. After the None, `result` does not wait.
        """

    def add_done_callback(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when the answer has ended, at once if it has; it must neither wait nor raise."""

    def cancel(self) -> None:
        """End the request and free its slot within one step; harmless when it is finished."""

    def result(self) -> GenerationOutput:
        """Wait for the whole answer, at most until the request's deadline.

        Raises:
            RequestTimeoutError: The deadline passed.
            RequestCancelledError: `cancel` was called.
            GenerationError: The engine failed on this request.
            EngineUnavailableError: The engine was closed or died.
        """


class GenerationEngine(Protocol):
    """Requests in, tokens or log-probabilities out. All methods may be called from any thread."""

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, with its chat template; read only."""

    def check(self, request: GenerationRequest) -> None:
        """Raise what `submit` would raise for the request itself, and queue nothing.

        Raises:
            InvalidInputError: The request could harm the shared batch, or can never fit.
        """

    def submit(self, request: GenerationRequest) -> GenerationStream:
        """Queue a request.

        Raises:
            InvalidInputError: The request could harm the shared batch or can never fit; checked before it joins.
            QueueFullError: `max_queue_size` requests are open.
            EngineUnavailableError: The engine is closed or dead.
        """

    def score(self, texts: Sequence[Text], top_logprobs: int = 0) -> list[TokenScores]:
        """Log-probability of each token after the first of each text, under a plain forward pass.

        Args:
            texts: What is scored.
            top_logprobs: So many of the most probable tokens of each place come with the scores, from 0 to 128.

        Returns:
            For a text of n tokens n - 1 natural logarithms, float32: entry i belongs to token i + 1.
        """

    def logits(self, token_ids: Sequence[int], first: int = 1) -> Iterator[NDArray[np.float32]]:
        """Raw logits of one text, under a plain forward pass, as the model gives them: before any softmax.

        The model's own scales, caps and masks of logits are in them, as far as it has any.
        The engine is free for others between two slices, and goes on with its own computation when asked for the next.

        Args:
            token_ids: The text.
            first: Index of the first token whose prediction is wanted, from 1 to the number of tokens: those before it
                are context only; where it is that number, nothing is predicted.

        Returns:
            Slices in order, [256 or fewer, vocabulary]; row i over all of them belongs to token `first + i`, the last
            one to the last token. A slice is only sure to be valid until the next one is asked for.

        Raises:
            InvalidInputError: No token ids of this vocabulary, or `first` is no such number; raised at once.
            PromptTooLongError: More tokens than the context.
            EngineUnavailableError: The engine is closed; raised by the iterator.
        """

    def choose(
        self, prompts: Sequence[Text], choices: Sequence[Text] | Sequence[Sequence[Text]]
    ) -> list[ChoiceScores]:
        """Log-probability of each choice as the continuation of each prompt.

        What prompts share is computed once: several questions about one state, or many rows under one rubric, belong
        in one call. The beginnings of a few recent calls are kept.

        Args:
            prompts: What was said so far.
            choices: The same for all prompts, or one sequence of choices a prompt. Strings are tokenised jointly
                with their prompt.

        Returns:
            A row for each prompt: the sums of the log-probabilities of each choice's tokens, in order, and their mass.
        """

    def stats(self) -> EngineStats:
        """What is running now."""

    def drain(self, timeout_s: float) -> bool:
        """Take nothing new and wait until what is open has ended, at most `timeout_s` seconds; whether it has.

        Call `close` after it.
        """

    def close(self) -> None:
        """Fail open requests, end the engine's threads and free the cache; may be called twice."""
