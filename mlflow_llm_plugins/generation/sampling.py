"""Picks every row's next token: what a request's sampling asks for, and how far its answer has come.

A step goes through all rows together; only what changes logits (biases, penalties, constraints) is done row by row,
for the rows that ask for it. Log-probabilities are always those of the raw logits. How a token is drawn from a row is
in `drawing`.
"""

from __future__ import annotations

import hashlib
import logging
import math
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.generation.logits_process import (
    LogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)

from mlflow_llm_plugins.errors import GenerationError, LLMError
from mlflow_llm_plugins.generation.admission import AdmittedRequest
from mlflow_llm_plugins.generation.drawing import argmax, draw, top
from mlflow_llm_plugins.generation.requests import Pick

_logger = logging.getLogger(__name__)

_GREEDY_BELOW = 1e-5  # of the temperature: float32 could not divide by less


@dataclass(slots=True)
class SamplingPlan:
    """How one request picks its tokens, and what it has picked so far."""

    request: AdmittedRequest
    seed: int
    picks: list[Pick] = field(default_factory=list)
    error: LLMError | None = None  # set when a row cannot be picked from
    counts: Counter[int] = field(default_factory=Counter)  # how often the answer has each token
    _history: torch.Tensor | None = None  # [1, prompt + longest answer]
    _processors: list[Any] = field(default_factory=list)

    @classmethod
    def of(cls, request: AdmittedRequest) -> SamplingPlan:
        """The plan of a request; one without a seed draws its own."""
        seed = secrets.randbits(63) if request.options.seed is None else request.options.seed
        plan = cls(request, seed)
        plan._processors = _processors(plan)
        if plan._processors:
            plan._history = torch.zeros((1, len(request.prompt_ids) + request.max_new_tokens), dtype=torch.long)
            plan._history[0, : len(request.prompt_ids)] = torch.tensor(request.prompt_ids)
        return plan

    @property
    def temperature(self) -> float:
        """As asked for."""
        return self.request.options.temperature

    @property
    def top_k(self) -> int | None:
        """As asked for."""
        return self.request.options.top_k

    @property
    def top_p(self) -> float | None:
        """As asked for."""
        return self.request.options.top_p

    @property
    def min_p(self) -> float | None:
        """As asked for."""
        return self.request.options.min_p

    @property
    def is_greedy(self) -> bool:
        """Whether the most probable token is taken."""
        return self.temperature < _GREEDY_BELOW

    @property
    def changes_logits(self) -> bool:
        """Whether anything but the raw logits decides."""
        return bool(self._processors) or self.request.matcher is not None

    def uniform(self, attempt: int = 0) -> float:
        """The number in [0, 1) that decides the next pick, from seed and position alone."""
        place = f"{len(self.picks)}.{attempt}" if attempt else f"{len(self.picks)}"
        digest = hashlib.blake2b(f"{self.seed}:{place}".encode(), digest_size=8).digest()
        return (int.from_bytes(digest, "little") >> 11) * 2.0**-53

    def scores(self, logits: torch.Tensor) -> torch.Tensor:
        """[vocab] what is picked from: the raw logits [vocab], changed as the request asks.

        Raises:
            GenerationError: No token is left, or the constraint broke.
        """
        scores = self._processed(logits)
        if self.request.matcher is not None:
            allowed = self.request.matcher.allowed().to(logits.device)
            scores = torch.where(allowed, scores, -torch.inf)
            if not scores.amax().isfinite():  # what penalties forbid, the constraint may need
                scores = torch.where(allowed, logits, -torch.inf)
        if not scores.amax().isfinite():
            raise GenerationError("Biases, processors or the constraint of this request allow no next token.")
        return scores

    def _processed(self, logits: torch.Tensor) -> torch.Tensor:
        if self._history is None:
            return logits
        history = self._history[:, : len(self.request.prompt_ids) + len(self.picks)].to(logits.device)
        scores = logits[None]
        if self.request.options.logits_processors:  # others than ours may write into what they get
            scores = scores.clone()
        for processor in self._processors:
            scores = processor(history, scores)
        if scores.shape != (1, *logits.shape):
            raise GenerationError(f"A logits processor must return scores of shape {(1, *logits.shape)}.")
        return scores[0]

    def accept(self, token_id: int, logprob: float, top_logprobs: tuple[tuple[int, float], ...]) -> None:
        """Note a pick."""
        completes = self._advance_constraint(token_id)
        if self._history is not None:
            place = len(self.request.prompt_ids) + len(self.picks)
            if place < self._history.shape[1]:  # a step beyond the end happens before the answer is seen to be one
                self._history[0, place] = token_id
            self.counts[token_id] += 1
        self.picks.append(Pick(token_id, logprob, top_logprobs, completes))

    def _advance_constraint(self, token_id: int) -> bool:
        matcher = self.request.matcher
        if matcher is None or token_id in self.request.eos_token_ids or matcher.is_finished:
            return False
        matcher.accept(token_id)
        return matcher.is_finished

    def __deepcopy__(self, memo: dict[int, Any]) -> SamplingPlan:
        """The same plan: continuous batching copies the arguments of a request that it evicts and restarts."""
        return self


def pick(logits: torch.Tensor, plans: Sequence[SamplingPlan]) -> torch.Tensor:
    """Choose the next token of each row and note it on its plan.

    Args:
        logits: [rows, vocab], float32, raw. Not changed.
        plans: One for each row. A row that cannot be picked from (NaN, an infinite logit, a raising processor) gets
            an `error` and token 0; the others are not touched by it.

    Returns:
        [rows] token ids, int64, on the device of the logits.
    """
    mass = _log_mass(logits)  # [rows]
    for plan, healthy in zip(plans, torch.isfinite(mass).tolist(), strict=True):
        if not healthy:
            plan.error = GenerationError("The model produced NaN or infinite logits for this request.")
    scores = _scores(logits, plans)
    tokens = _choose(scores, plans)
    chosen = (logits.gather(1, tokens[:, None])[:, 0] - mass).tolist()
    alternatives = _alternatives(logits, mass, plans)
    for row, (plan, token) in enumerate(zip(plans, tokens.tolist(), strict=True)):
        if plan.error is None:
            _guarded(plan, plan.accept, token, chosen[row], alternatives.get(row, ()))
    return tokens


def _log_mass(logits: torch.Tensor) -> torch.Tensor:
    """[rows] logsumexp; by way of the softmax, which is twice as fast. NaN or infinite where a row is sick."""
    return logits.amax(-1) - logits.softmax(-1).amax(-1).log()


def _scores(logits: torch.Tensor, plans: Sequence[SamplingPlan]) -> torch.Tensor:
    """The logits themselves, or a copy in which the rows that want it are changed."""
    changing = [row for row, plan in enumerate(plans) if plan.changes_logits and plan.error is None]
    if not changing:
        return logits
    scores = logits.clone()
    for row in changing:
        changed = _guarded(plans[row], plans[row].scores, logits[row])
        if changed is not None:
            scores[row] = changed
    return scores


def _guarded(plan: SamplingPlan, act: Any, *arguments: Any) -> Any:
    """What `act` returns; an exception becomes the plan's error: one request must not end the step of all."""
    try:
        return act(*arguments)
    except LLMError as error:
        plan.error = error
    except Exception as error:
        _logger.exception("A logits processor failed.")
        plan.error = GenerationError(f"A logits processor of this request failed: {type(error).__name__}: {error}")
    return None


def _choose(scores: torch.Tensor, plans: Sequence[SamplingPlan]) -> torch.Tensor:
    drawing = [row for row, plan in enumerate(plans) if plan.error is None and not plan.is_greedy]
    if len(drawing) == len(plans):
        return draw(scores, plans)
    tokens = argmax(scores)  # NaN wins, such rows are zeroed below
    if drawing:
        tokens[drawing] = draw(scores[drawing], [plans[row] for row in drawing])
    sick = [row for row, plan in enumerate(plans) if plan.error is not None]
    tokens[sick] = 0
    return tokens


def _alternatives(
    logits: torch.Tensor, mass: torch.Tensor, plans: Sequence[SamplingPlan]
) -> dict[int, tuple[tuple[int, float], ...]]:
    """Row -> its most probable tokens, for rows that ask for them."""
    asking = [row for row, plan in enumerate(plans) if plan.request.options.top_logprobs and plan.error is None]
    if not asking:
        return {}
    values, ids = top(logits[asking], max(plans[row].request.options.top_logprobs for row in asking))
    logprobs = (values - mass[asking][:, None]).tolist()
    return {
        row: tuple((token_id, logprob) for token_id, logprob in zip(of_row, own, strict=True) if logprob > -math.inf)[
            : plans[row].request.options.top_logprobs
        ]
        for row, of_row, own in zip(asking, ids.tolist(), logprobs, strict=True)
    }


def _processors(plan: SamplingPlan) -> list[Any]:
    """What changes the logits of a request, in order."""
    options, prompt = plan.request.options, plan.request.prompt_ids
    processors: list[Any] = []
    if options.logit_bias:
        processors.append(_LogitBias(options.logit_bias))
    if options.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(float(options.repetition_penalty)))
    if options.frequency_penalty or options.presence_penalty:
        processors.append(_CountPenalty(plan.counts, options.frequency_penalty, options.presence_penalty))
    if options.no_repeat_ngram_size:
        processors.append(NoRepeatNGramLogitsProcessor(int(options.no_repeat_ngram_size)))
    if options.min_new_tokens and plan.request.eos_token_ids:
        processors.append(_NoEndBefore(len(prompt) + options.min_new_tokens, plan.request.eos_token_ids))
    return [*processors, *options.logits_processors]


class _LogitBias(LogitsProcessor):
    """OpenAI's `logit_bias`."""

    def __init__(self, bias: Any) -> None:
        self._ids, self._values = torch.tensor(list(bias)), torch.tensor(list(bias.values()), dtype=torch.float32)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores.index_add(1, self._ids.to(scores.device), self._values.to(scores.device)[None])


class _CountPenalty(LogitsProcessor):
    """OpenAI's `frequency_penalty` and `presence_penalty`, which count the answer only."""

    def __init__(self, counts: Counter[int], frequency: float, presence: float) -> None:
        self._counts, self._frequency, self._presence = counts, frequency, presence

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        ids = torch.tensor(list(self._counts), dtype=torch.long, device=scores.device)
        counts = torch.tensor(list(self._counts.values()), dtype=scores.dtype, device=scores.device)
        return scores.index_add(1, ids, -(self._presence + self._frequency * counts)[None])


class _NoEndBefore(LogitsProcessor):
    """No end token while prompt and answer have fewer than `length` tokens."""

    def __init__(self, length: int, end_token_ids: frozenset[int]) -> None:
        self._length, self._ids = length, sorted(end_token_ids)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if input_ids.shape[1] >= self._length:
            return scores
        ended = scores.clone()
        ended[:, [token_id for token_id in self._ids if token_id < scores.shape[1]]] = -torch.inf
        return ended
