"""An engine behind the package's own seam that answers at once and says what it saw."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from mlflow_llm_plugins.errors import (
    GenerationError,
    PromptTooLongError,
    QueueFullError,
    RequestCancelledError,
)
from mlflow_llm_plugins.generation import (
    ChoiceScores,
    EngineStats,
    GenerationOutput,
    GenerationRequest,
    TokenEvent,
    TokenScores,
)

FAILS = "BOOM"  # a prompt that holds it fails while it is generated


class FakeEngine:
    """Says back the prompt, one token a character, and ends like an engine: at `stop`, or at `max_new_tokens`."""

    def __init__(self, tokenizer: Any, queue_size: int = 1000, context: int = 10_000) -> None:
        self.tokenizer = tokenizer
        self.queue_size = queue_size
        self.context = context
        self.requests: list[GenerationRequest] = []
        self.streams: list[FakeStream] = []
        self.most_open = 0
        self.taken_by_others = 0

    def check(self, request: GenerationRequest) -> None:
        tokens = len(request.prompt_ids) + (request.max_new_tokens or 1)
        if tokens > self.context:
            raise PromptTooLongError(f"Prompt and answer would have {tokens} tokens, the context has {self.context}.")

    def submit(self, request: GenerationRequest) -> FakeStream:
        self.check(request)
        if len(self.open) + self.taken_by_others >= self.queue_size:
            raise QueueFullError(f"{self.queue_size} requests are open already.")
        self.requests.append(request)
        self.streams.append(FakeStream(self, request))
        self.most_open = max(self.most_open, len(self.open))
        return self.streams[-1]

    @property
    def open(self) -> list[FakeStream]:
        return [stream for stream in self.streams if stream.is_open]

    @property
    def prompts(self) -> list[str]:
        return [self.tokenizer.decode(request.prompt_ids) for request in self.requests]

    def score(self, texts: Sequence[Any], top_logprobs: int = 0) -> list[TokenScores]:
        alternatives = tuple((n, 0.0) for n in range(top_logprobs))
        places = [len(text) - 1 for text in texts]
        return [TokenScores([0.0] * n, [alternatives] * n if top_logprobs else ()) for n in places]

    def logits(self, token_ids: Sequence[int], first: int = 1) -> Iterator[np.ndarray]:
        yield np.zeros((len(token_ids) - first, len(self.tokenizer)), np.float32)

    def choose(self, prompts: Sequence[Any], choices: Sequence[Any]) -> list[ChoiceScores]:
        shared = all(isinstance(choice, str) or isinstance(choice[0], int) for choice in choices)
        rows = [choices] * len(prompts) if shared else choices
        return [ChoiceScores([math.log(1 / len(own))] * len(own)) for own in rows]

    def stats(self) -> EngineStats:
        return EngineStats("fake", "running", len(self.open), 0, self.context, 0)

    def close(self) -> None:
        for stream in self.open:
            stream.cancel()


class FakeStream:
    """Open until its result was taken or it was cancelled."""

    def __init__(self, engine: FakeEngine, request: GenerationRequest) -> None:
        self.is_open = True
        self.was_cancelled = False
        self._prompt = engine.tokenizer.decode(request.prompt_ids)
        self._output = answer_to(self._prompt, request)

    def __iter__(self) -> Iterator[TokenEvent]:
        for token_id, character in zip(self._output.token_ids, self._output.text, strict=True):
            self._raise_if_cancelled()
            yield TokenEvent(token_id, character, -0.5)
        self.result()

    def listen(self, listener: Callable[[TokenEvent | None], None]) -> None:
        for event in self:
            listener(event)
        listener(None)

    def add_done_callback(self, callback: Callable[[], None]) -> None:
        callback()

    def cancel(self) -> None:
        self.was_cancelled = self.was_cancelled or self.is_open
        self.is_open = False

    def result(self) -> GenerationOutput:
        self._raise_if_cancelled()
        self.is_open = False
        if FAILS in self._prompt:
            raise GenerationError("The logits are not finite.")
        return self._output

    def _raise_if_cancelled(self) -> None:
        if self.was_cancelled:
            raise RequestCancelledError("The request was cancelled.")


def answer_to(prompt: str, request: GenerationRequest) -> GenerationOutput:
    """Echoes the prompt, and the seed where there is one."""
    whole = f"[{prompt}]" + (f"#{request.seed}" if request.seed is not None else "")
    ends = [whole.find(stop) for stop in request.stop if stop in whole]
    text = whole[: min(ends, default=len(whole))][: request.max_new_tokens]
    is_cut = request.max_new_tokens is not None and len(text) == request.max_new_tokens
    return GenerationOutput(
        text=text,
        token_ids=tuple(range(len(text))),
        logprobs=(-0.5,) * len(text),
        prompt_tokens=len(request.prompt_ids),
        finish_reason="length" if is_cut else "stop",
    )
