"""Picks every row's next token: what a request's sampling asks for, and how far its answer has come.

A step goes through all rows together; only biases, penalties and processors are applied row by row, to the rows that
ask for them. Log-probabilities are always those of the raw logits. How a token is drawn from a row is in `drawing`.
"""

from __future__ import annotations

import hashlib
import logging
import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from mlflow_llm_plugins.errors import GenerationError, LLMError
from mlflow_llm_plugins.generation.admission import AdmittedRequest
from mlflow_llm_plugins.generation.requests import Pick
from mlflow_llm_plugins.generation.sampling.constraints import masks_of
from mlflow_llm_plugins.generation.sampling.drawing import draw
from mlflow_llm_plugins.generation.sampling.processors import History, Processor, processors_of
from mlflow_llm_plugins.generation.sampling.rows import argmax, take, top

_logger = logging.getLogger(__name__)

Alternatives = tuple[tuple[int, float], ...]  # token ids and log-probabilities, best first

_NOTHING_LEFT = "Biases, processors or the constraint of this request allow no next token."
_GREEDY_BELOW = 1e-5  # of the temperature: float32 could not divide by less


@dataclass(slots=True)
class SamplingPlan:
    """How one request picks its tokens, and what it has picked so far."""

    request: AdmittedRequest
    seed: int
    picks: list[Pick] = field(default_factory=list)
    error: LLMError | None = None  # set when a row cannot be picked from
    processors: Sequence[Processor] = ()
    _history: History | None = None  # where there are processors

    @classmethod
    def of(cls, request: AdmittedRequest) -> SamplingPlan:
        """The plan of a request; one without a seed draws its own."""
        seed = secrets.randbits(63) if request.options.seed is None else request.options.seed
        processors = processors_of(request.options, len(request.prompt_ids), request.eos_token_ids)
        history = History(request.prompt_ids, request.max_new_tokens) if processors else None
        return cls(request, seed, processors=processors, _history=history)

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

    def uniform(self, attempt: int = 0) -> float:
        """The number in [0, 1) that decides the next pick, from seed and position alone."""
        place = f"{len(self.picks)}.{attempt}" if attempt else f"{len(self.picks)}"
        digest = hashlib.blake2b(f"{self.seed}:{place}".encode(), digest_size=8).digest()
        return (int.from_bytes(digest, "little") >> 11) * 2.0**-53

    def process(self, scores: torch.Tensor) -> None:
        """Let the processors write into `scores`, the logits of this request, [vocab].

        Raises:
            GenerationError: A processor failed in a way that it could tell.
        """
        if self._history is not None:
            for processor in self.processors:
                processor(self._history, scores)

    def accept(self, token_id: int, logprob: float | None = None, top_logprobs: Alternatives = ()) -> None:
        """Note a pick."""
        completes = self._advance_constraint(token_id)
        if self._history is not None:
            self._history.append(token_id)
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
    raw_best = logits.amax(-1)  # [rows]; NaN or infinite where a row is sick
    _fail_unless(torch.isfinite(raw_best), plans, "The model produced NaN or infinite logits for this request.")
    scores, best = _scores(logits, raw_best, plans)
    temperatures = torch.tensor([1.0 if plan.is_greedy else plan.temperature for plan in plans]).to(best)
    _fail_unless(torch.isfinite(best / temperatures), plans, _NOTHING_LEFT)
    tokens = _choose(scores, plans)
    logprobs = _logprobs(logits, raw_best, tokens, plans)
    for row, (plan, token) in enumerate(zip(plans, tokens.tolist(), strict=True)):
        if plan.error is None:
            _guarded("The constraint", plan, plan.accept, token, *logprobs.get(row, (None, ())))
    return tokens


def _fail_unless(healthy: torch.Tensor, plans: Sequence[SamplingPlan], message: str) -> None:
    """Give the rows that are not healthy, [rows] bool, an error if they have none."""
    for plan, it_is in zip(plans, healthy.tolist(), strict=True):
        if not it_is and plan.error is None:
            plan.error = GenerationError(message)


def _scores(
    logits: torch.Tensor, best: torch.Tensor, plans: Sequence[SamplingPlan]
) -> tuple[torch.Tensor, torch.Tensor]:
    """[rows, vocab] what is picked from, and the best of each row.

    The logits themselves, or a copy in which the rows that want it are changed. Rows whose processors fail, or whose
    constraint does, get their plan's `error`.
    """
    healthy = [row for row, plan in enumerate(plans) if plan.error is None]
    processed = [row for row in healthy if plans[row].processors]
    constrained = [row for row in healthy if plans[row].request.matcher is not None]
    changed = sorted({*processed, *constrained})
    if not changed:
        return logits, best
    scores = _processed(logits, processed, plans) if processed else logits
    constrained = [row for row in constrained if plans[row].error is None]
    if constrained:
        scores = _constrained(scores, logits, constrained, plans)
    best = best.clone()
    best[changed] = take(scores, changed).amax(-1)
    return scores, best


def _processed(logits: torch.Tensor, rows: Sequence[int], plans: Sequence[SamplingPlan]) -> torch.Tensor:
    """A copy of the logits in which the processors of these rows have written."""
    scores = logits.clone()
    for row in rows:
        _guarded("A logits processor", plans[row], plans[row].process, scores[row])
    best = take(scores, rows).amax(-1)
    _fail_unless(~(best.isnan() | best.isposinf()), [plans[row] for row in rows], _NOTHING_LEFT)
    return scores


def _constrained(
    scores: torch.Tensor, logits: torch.Tensor, rows: Sequence[int], plans: Sequence[SamplingPlan]
) -> torch.Tensor:
    """A copy of the scores in which these rows allow what their constraints allow."""
    matchers = [matcher for row in rows if (matcher := plans[row].request.matcher)]
    try:
        masks = masks_of(matchers, logits)
    except ValueError as error:
        for row in rows:
            plans[row].error = GenerationError(str(error))
        return scores
    masked = take(scores, rows) + masks
    if scores is not logits:  # what penalties forbid, the constraint may need
        lost = [i for i, best in enumerate(masked.amax(-1).isfinite().tolist()) if not best]
        masked[lost] = logits[[rows[i] for i in lost]] + masks[lost]
    if len(rows) == len(scores):
        return masked
    scores = scores.clone()
    scores[rows] = masked
    return scores


def _guarded(what: str, plan: SamplingPlan, act: Any, *arguments: Any) -> None:
    """Do it; an exception becomes the plan's error: one request must not end the step of all."""
    try:
        act(*arguments)
    except LLMError as error:
        plan.error = error
    except Exception as error:
        _logger.exception("%s failed.", what)
        plan.error = GenerationError(f"{what} of this request failed: {type(error).__name__}: {error}")


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


def _logprobs(
    logits: torch.Tensor, best: torch.Tensor, tokens: torch.Tensor, plans: Sequence[SamplingPlan]
) -> dict[int, tuple[float, Alternatives]]:
    """Row -> the log-probability of its token and the best tokens with theirs, for rows that ask for them."""
    asking = [row for row, plan in enumerate(plans) if plan.request.options.top_logprobs is not None]
    asking = [row for row in asking if plans[row].error is None]
    if not asking:
        return {}
    raw = take(logits, asking)
    # [asking, 1] logsumexp; by way of the softmax, which on some CPUs is twice as fast
    mass = (best[asking] - raw.softmax(-1).amax(-1).log())[:, None]
    chosen = (raw.gather(1, tokens[asking][:, None]) - mass)[:, 0].tolist()
    alternatives = _alternatives(raw, mass, [plans[row].request.options.top_logprobs or 0 for row in asking])
    return dict(zip(asking, zip(chosen, alternatives, strict=True), strict=True))


def _alternatives(raw: torch.Tensor, mass: torch.Tensor, counts: Sequence[int]) -> list[Alternatives]:
    """Of each row so many; a token that cannot come is none."""
    if not any(counts):
        return [() for _ in counts]
    values, ids = top(raw, max(counts))
    return [
        tuple((token, logprob) for token, logprob in zip(row[:count], own[:count], strict=True) if logprob > -math.inf)
        for row, own, count in zip(ids.tolist(), (values - mass).tolist(), counts, strict=True)
    ]
