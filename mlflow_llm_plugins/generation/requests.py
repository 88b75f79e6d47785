"""What goes into an engine and what comes out: plain values, no torch."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, Literal, get_args

from mlflow_llm_plugins.errors import InvalidInputError

FinishReason = Literal["stop", "length"]
ConstraintKind = Literal["json_schema", "regex", "choice", "lark"]

# (input_ids [1, tokens], scores [1, vocab]) -> scores [1, vocab], as transformers' `LogitsProcessor`
LogitsProcessor = Callable[[Any, Any], Any]


@dataclass(frozen=True, slots=True)
class Constraint:
    """What an answer must look like, from its first character to its last."""

    kind: ConstraintKind
    value: str | tuple[str, ...]  # a JSON schema as JSON text, a regular expression, the choices, a Lark grammar

    def __post_init__(self) -> None:
        """Refuse what no engine could read.

        Raises:
            InvalidInputError: Names what is allowed.
        """
        _require(self.kind, self.kind in get_args(ConstraintKind), "constraint kind", " or ".join(_KINDS))
        if self.kind == "choice":
            _require(
                self.value, bool(self.value) and _are(self.value, str), "choice", "a tuple of strings, at least one"
            )
            _require("", all(self.value), "choice", "strings that are not empty")
        else:
            _require(self.value, isinstance(self.value, str) and bool(self.value), self.kind, "a string, not empty")


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One prompt and how to continue it. None means: not given, the engine's default.

    The raw logits get `logit_bias`, the penalties, `no_repeat_ngram_size`, `min_new_tokens`, `logits_processors` and
    the constraint, in this order. Then, as in transformers: divided by the temperature, top_k, top_p, min_p, one draw.
    """

    prompt_ids: Sequence[int]
    max_new_tokens: int | None = None  # None: the default, cut to what the context leaves
    default_new_tokens: int | None = None  # the default; None: EngineSettings.max_new_tokens
    new_tokens_limit: int | None = None  # caps the default
    temperature: float = 0.0  # 0 is greedy; above it tokens are drawn
    top_k: int | None = None  # keep the k most probable tokens; None or 0 keeps all
    top_p: float | None = None  # keep the smallest set with this mass, in (0, 1]
    min_p: float | None = None  # drop tokens below this share of the best one's probability, in [0, 1]
    repetition_penalty: float = 1.0  # of tokens of prompt and answer, above 0; transformers' meaning
    frequency_penalty: float = 0.0  # subtracted for each time that the answer has the token, from -2 to 2; OpenAI's
    presence_penalty: float = 0.0  # subtracted once for a token that the answer has, from -2 to 2; OpenAI's
    no_repeat_ngram_size: int = 0  # no sequence of so many tokens comes twice in prompt and answer; 0: off
    logit_bias: Mapping[int, float] = field(default_factory=dict)  # token id -> what is added, from -100 to 100
    min_new_tokens: int = 0  # no end token before so many
    logits_processors: tuple[LogitsProcessor, ...] = ()  # transformers' or one's own; get prompt and answer
    constraint: Constraint | None = None  # the answer is of this form, or ends for length
    seed: int | None = None  # the same seed draws the same tokens, alone or in company
    stop: tuple[str, ...] = ()  # the answer ends before the first of these
    eos_token_ids: tuple[int, ...] | None = None  # None: the model's own; (): never end by token
    stop_token_ids: tuple[int, ...] = ()  # end tokens beside those
    top_logprobs: int | None = None  # logprobs of picked tokens and of so many best ones, up to 128; None: none
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
        stops = self.stop
        _require(stops, _are(stops, str), "stop", "strings that are not empty")
        _require("", all(stops), "stop", "strings that are not empty")
        eos = self.eos_token_ids
        _require(eos, eos is None or _are(eos, Integral), "eos_token_ids", "a tuple of token ids")
        _require(self.stop_token_ids, _are(self.stop_token_ids, Integral), "stop_token_ids", "a tuple of token ids")
        processors = self.logits_processors
        holds = isinstance(processors, (tuple, list)) and all(callable(processor) for processor in processors)
        _require(processors, holds, "logits_processors", "a tuple of callables")
        self._require_ranges()
        self._require_bias()

    def _require_ranges(self) -> None:
        k, p, share = self.top_k, self.top_p, self.min_p
        _require(
            self.temperature,
            self.temperature is not None and 0 <= self.temperature <= 100,
            "temperature",
            "from 0 (greedy) to 100",
        )
        for name in ("max_new_tokens", "default_new_tokens"):
            value = getattr(self, name)
            _require(value, value is None or value >= 1, name, "at least 1")
        _require(k, k is None or k >= 0, "top_k", "at least 1, or 0 to keep all tokens")
        _require(p, p is None or 0 < p <= 1, "top_p", "above 0 and at most 1")
        _require(share, share is None or 0 <= share <= 1, "min_p", "from 0 to 1")
        _require(self.timeout_s, self.timeout_s is None or self.timeout_s > 0, "timeout_s", "above 0")
        penalty = self.repetition_penalty
        _require(penalty, penalty is not None and 0.01 <= penalty <= 100, "repetition_penalty", "from 0.01 to 100")
        for name in ("frequency_penalty", "presence_penalty"):
            value = getattr(self, name)
            _require(value, value is not None and -2 <= value <= 2, name, "from -2 to 2")
        for name in ("no_repeat_ngram_size", "min_new_tokens"):
            value = getattr(self, name)
            _require(value, value is not None and value >= 0, name, "at least 0")
        asked = self.top_logprobs
        _require(asked, asked is None or 0 <= asked <= 128, "top_logprobs", "None or from 0 to 128")

    def _require_bias(self) -> None:
        allowed = "a mapping of token ids to numbers from -100 to 100"
        _require(self.logit_bias, isinstance(self.logit_bias, Mapping), "logit_bias", allowed)
        for token_id, bias in self.logit_bias.items():
            holds = _is(token_id, Integral) and _is(bias, Real) and bias is not None and -100 <= bias <= 100
            _require({token_id: bias}, holds, "logit_bias", allowed)


@dataclass(frozen=True, slots=True)
class Pick:
    """One token of an answer, before it is text."""

    token_id: int
    logprob: float | None = None  # under the model's raw logits, where asked for
    top_logprobs: tuple[tuple[int, float], ...] = ()  # best first
    completes: bool = False  # the constraint is fulfilled, and nothing may follow


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One generated token, as a stream yields it."""

    token_id: int
    text: str  # the text that became certain with it; "" inside a character or a possible stop string
    logprob: float | None = None  # log-probability under the model's raw logits, where asked for
    top_logprobs: tuple[tuple[int, float], ...] = ()  # the most probable tokens there, best first


@dataclass(frozen=True, slots=True)
class GenerationOutput:
    """A finished answer."""

    text: str  # without special tokens and without the stop string
    token_ids: tuple[int, ...]  # all that were generated, an end token included
    logprobs: tuple[float, ...]  # one for each of token_ids, where asked for
    prompt_tokens: int  # without padding
    finish_reason: FinishReason
    top_logprobs: tuple[tuple[tuple[int, float], ...], ...] = ()  # one for each of token_ids, where asked for
    cached_tokens: int | None = 0  # of the prompt, found in the cache, where others had left them; None: not known
    token_times: tuple[float, ...] = ()  # seconds from submission to each of token_ids

    @property
    def completion_tokens(self) -> int:
        """Generated tokens, an end token included."""
        return len(self.token_ids)


_KINDS = tuple(repr(kind) for kind in get_args(ConstraintKind))
_WHOLE_NUMBERS = (
    "max_new_tokens",
    "default_new_tokens",
    "new_tokens_limit",
    "top_k",
    "seed",
    "no_repeat_ngram_size",
    "min_new_tokens",
    "top_logprobs",
)
_NUMBERS = (
    "temperature",
    "top_p",
    "min_p",
    "timeout_s",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
)


def _is(value: object, kind: type) -> bool:
    return value is None or (isinstance(value, kind) and not isinstance(value, bool))


def _are(values: object, kind: type) -> bool:
    return isinstance(values, (tuple, list, frozenset, set)) and all(isinstance(value, kind) for value in values)


def _require(value: object, holds: bool, name: str, allowed: str) -> None:
    if not holds:
        raise InvalidInputError(f"{name} must be {allowed}, got {reprlib.repr(value)}.", param=name)
