"""What requests may ask of an engine, what an engine cannot do, and what it does in another way.

To add a feature: a row in `FEATURES`. The README's table of engines is made of these rows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from mlflow_llm_plugins.errors import UnsupportedFeatureError
from mlflow_llm_plugins.generation.requests import ConstraintKind, GenerationRequest

_logger = logging.getLogger(__name__)

_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Feature:
    """Something that an engine may be asked for."""

    label: str  # for people
    is_used: Callable[[GenerationRequest], bool] | None = None  # None: no field of a request asks for it


def _has(kind: ConstraintKind) -> Callable[[GenerationRequest], bool]:
    return lambda request: request.constraint is not None and request.constraint.kind == kind


FEATURES: Mapping[str, Feature] = MappingProxyType(
    {
        "temperature": Feature("temperature, top_k, min_p", lambda request: request.temperature > 0),
        "top_p": Feature(
            "top_p without top_k",
            lambda request: (request.top_p or 1) < 1 and not request.top_k and request.temperature > 0,
        ),
        "seed": Feature("seed: the same answer alone and in company", lambda request: request.seed is not None),
        "repetition_penalty": Feature("repetition_penalty", lambda request: request.repetition_penalty != 1),
        "penalties": Feature(
            "frequency and presence penalty",
            lambda request: bool(request.frequency_penalty or request.presence_penalty),
        ),
        "no_repeat_ngram_size": Feature("no_repeat_ngram_size", lambda request: request.no_repeat_ngram_size > 0),
        "logit_bias": Feature("logit_bias", lambda request: bool(request.logit_bias)),
        "logits_processors": Feature(
            "logits processors of one's own", lambda request: bool(request.logits_processors)
        ),
        "min_new_tokens": Feature("min_new_tokens", lambda request: request.min_new_tokens > 0),
        "constrained_min_new_tokens": Feature(
            "min_new_tokens with a constraint",
            lambda request: request.min_new_tokens > 0 and request.constraint is not None,
        ),
        "stop": Feature("stop strings", lambda request: bool(request.stop)),
        "logprobs": Feature(
            "log-probabilities of the answer's tokens", lambda request: request.top_logprobs is not None
        ),
        "top_logprobs": Feature(
            "top_logprobs: of other tokens in their places", lambda request: bool(request.top_logprobs)
        ),
        "json_schema": Feature("constrained to a JSON schema", _has("json_schema")),
        "regex": Feature("constrained to a regex", _has("regex")),
        "choice": Feature("constrained to a choice", _has("choice")),
        "lark": Feature("constrained to a Lark grammar", _has("lark")),
        "prefix_caching": Feature("prefix caching"),
        "cached_tokens": Feature("cached_tokens in usage"),
        "score": Feature("score, choose, logits: perplexity, echo, judges, typed decisions"),
        "lora": Feature("a LoRA adapter a request"),
        "gpu": Feature("GPUs"),
    }
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one engine does not do as a request says: keys of `FEATURES`, with the reason or the difference."""

    refused: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    approximated: Mapping[str, str] = field(default_factory=lambda: _NOTHING)


class FeatureCheck:
    """Holds requests against the limits of one engine; thread-safe."""

    def __init__(self, engine: str, limits: Limits) -> None:
        """Take the engine's name, for messages, and its limits."""
        self._engine = engine
        self._refused = _used(limits.refused)
        self._approximated = _used(limits.approximated)
        self._limits = limits
        self._told: set[str] = set()

    def check(self, request: GenerationRequest) -> None:
        """Let the request pass, with one warning an engine for what is done in another way.

        Raises:
            UnsupportedFeatureError: Names what the engine cannot do, and why.
        """
        for name, is_used in self._refused.items():
            if is_used(request):
                raise UnsupportedFeatureError(
                    f"The engine {self._engine!r} cannot do this: {FEATURES[name].label}. {self._limits.refused[name]}"
                )
        for name, is_used in self._approximated.items():
            if name not in self._told and is_used(request):
                self._told.add(name)
                _logger.warning(
                    "The engine %r: %s. %s", self._engine, FEATURES[name].label, self._limits.approximated[name]
                )


def _used(limits: Mapping[str, str]) -> dict[str, Callable[[GenerationRequest], bool]]:
    """Those that a request can ask for."""
    uses = ((name, FEATURES[name].is_used) for name in limits)
    return {name: is_used for name, is_used in uses if is_used is not None}
