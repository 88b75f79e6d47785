"""What goes into an engine and what comes out: plain values, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
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
        """Refuse types and values that no engine could honour.

        Raises:
            InvalidInputError: Names the field, what is allowed and what was given.
        """
        for name in _WHOLE_NUMBERS:
            _require(getattr(self, name), _is(getattr(self, name), Integral), name, "a whole number")
        for name in _NUMBERS:
            _require(getattr(self, name), _is(getattr(self, name), Real), name, "a number")
        _require(self.prompt_ids, not isinstance(self.prompt_ids, (str, bytes)), "prompt_ids", "token ids, not text")
        _require(self.stop, _are(self.stop, str) and all(self.stop), "stop", "a tuple of strings that are not empty")
        eos = self.eos_token_ids
        _require(eos, eos is None or _are(eos, Integral), "eos_token_ids", "a tuple of token ids")
        self._require_ranges()

    def _require_ranges(self) -> None:
        limit, k, p, share = self.max_new_tokens, self.top_k, self.top_p, self.min_p
        _require(
            self.temperature,
            self.temperature is not None and 0 <= self.temperature <= 100,
            "temperature",
            "from 0 (greedy) to 100",
        )
        _require(limit, limit is None or limit >= 1, "max_new_tokens", "at least 1")
        _require(k, k is None or k >= 0, "top_k", "at least 1, or 0 to keep all tokens")
        _require(p, p is None or 0 < p <= 1, "top_p", "above 0 and at most 1")
        _require(share, share is None or 0 <= share <= 1, "min_p", "from 0 to 1")
        _require(self.timeout_s, self.timeout_s is None or self.timeout_s > 0, "timeout_s", "above 0")


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


_WHOLE_NUMBERS = ("max_new_tokens", "top_k", "seed")
_NUMBERS = ("temperature", "top_p", "min_p", "timeout_s")


def _is(value: object, kind: type) -> bool:
    return value is None or (isinstance(value, kind) and not isinstance(value, bool))


def _are(values: object, kind: type) -> bool:
    return isinstance(values, (tuple, list, frozenset, set)) and all(isinstance(value, kind) for value in values)


def _require(value: object, holds: bool, name: str, allowed: str) -> None:
    if not holds:
        raise InvalidInputError(f"{name} must be {allowed}, got {value!r}.")
