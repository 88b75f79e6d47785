"""What goes into an engine and what comes out: plain values, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mlflow_llm_plugins.errors import InvalidInputError

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One prompt and how to continue it. None means: not given, the engine's default.

    Sampling follows transformers: logits / temperature, then top_k, top_p, min_p, then one draw.
    """

    prompt_ids: Sequence[int]
    max_new_tokens: int | None = None  # None: EngineSettings.max_new_tokens, cut to what the context leaves
    temperature: float = 0.0  # 0 is greedy; above it tokens are drawn
    top_k: int | None = None  # keep the k most probable tokens; None or 0 keeps all
    top_p: float | None = None  # keep the smallest set with this mass, in (0, 1]
    min_p: float | None = None  # drop tokens below this share of the best one's probability, in [0, 1]
    seed: int | None = None  # the same seed draws the same tokens, alone or in company
    stop: tuple[str, ...] = ()  # the answer ends before the first of these
    eos_token_ids: tuple[int, ...] | None = None  # None: the model's own; (): never end by token
    timeout_s: float | None = None  # None: EngineSettings.request_timeout_s

    def __post_init__(self) -> None:
        """Refuse values that no engine could honour."""
        _require(self.temperature, 0 <= self.temperature <= 100, "temperature", "from 0 (greedy) to 100")
        _require(
            self.max_new_tokens,
            self.max_new_tokens is None or self.max_new_tokens >= 1,
            "max_new_tokens",
            "at least 1",
        )
        _require(self.top_k, self.top_k is None or self.top_k >= 0, "top_k", "at least 1, or 0 to keep all tokens")
        _require(self.top_p, self.top_p is None or 0 < self.top_p <= 1, "top_p", "above 0 and at most 1")
        _require(self.min_p, self.min_p is None or 0 <= self.min_p <= 1, "min_p", "from 0 to 1")
        _require(self.timeout_s, self.timeout_s is None or self.timeout_s > 0, "timeout_s", "above 0")
        _require(self.stop, all(self.stop), "stop", "made of strings that are not empty")


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One generated token, as a stream yields it."""

    token_id: int
    text: str  # the text that became certain with it; "" inside a character or a possible stop string
    logprob: float  # log-probability under the model's raw logits


@dataclass(frozen=True, slots=True)
class GenerationOutput:
    """A finished answer."""

    text: str  # without special tokens and without the stop string
    token_ids: tuple[int, ...]  # all that were generated, an end token included
    logprobs: tuple[float, ...]  # one for each of token_ids
    prompt_tokens: int  # without padding
    finish_reason: FinishReason

    @property
    def completion_tokens(self) -> int:
        """Generated tokens, an end token included."""
        return len(self.token_ids)


def _require(value: object, holds: bool, name: str, allowed: str) -> None:
    if not holds:
        raise InvalidInputError(f"{name} must be {allowed}, got {value!r}.")
