"""Picks every row's next token, vectorised over the rows of a step.

Order and meaning of the truncations are transformers': logits / temperature, then top_k, top_p, min_p. A draw
is a pure function of (seed, position): one uniform number through the inverse cumulative distribution, so a
seeded answer is the same alone and in company, and there is no generator state to keep. The vocabulary is never
sorted: truncation looks at the top candidates, and at more of them when their mass is short.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from mlflow_llm_plugins.errors import GenerationError
from mlflow_llm_plugins.generation.admission import AdmittedRequest

_CANDIDATES = 256  # the first look; widened by _WIDEN while a row needs more
_WIDEN = 8
_GREEDY_BELOW = 1e-30


@dataclass(slots=True)
class SamplingPlan:
    """How one request picks its tokens, and what it has picked so far."""

    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    seed: int
    logprobs: list[float] = field(default_factory=list)  # of each pick, under the raw logits
    error: GenerationError | None = None  # set when a row cannot be picked from

    @classmethod
    def of(cls, request: AdmittedRequest) -> SamplingPlan:
        """The plan of a request; one without a seed draws its own."""
        seed = secrets.randbits(63) if request.seed is None else request.seed
        return cls(request.temperature, request.top_k, request.top_p, request.min_p, seed)

    @property
    def is_greedy(self) -> bool:
        """Whether the most probable token is taken: also where float32 could not divide by the temperature."""
        return self.temperature < _GREEDY_BELOW

    @property
    def truncates(self) -> bool:
        """Whether some tokens may be excluded before the draw."""
        return bool(self.top_k) or (self.top_p or 1.0) < 1.0 or bool(self.min_p)

    def uniform(self) -> float:
        """The number in [0, 1) that decides the next pick, from seed and position alone."""
        key = f"{self.seed}:{len(self.logprobs)}".encode()
        digest = hashlib.blake2b(key, digest_size=8).digest()
        return (int.from_bytes(digest, "little") >> 11) * 2.0**-53

    def __deepcopy__(self, memo: dict[int, Any]) -> SamplingPlan:
        """The same plan: continuous batching copies the arguments of a request that it evicts and restarts."""
        return self


def pick(logits: torch.Tensor, plans: Sequence[SamplingPlan]) -> torch.Tensor:
    """Choose the next token of each row and note its log-probability on the plan.

    Args:
        logits: [rows, vocab], float32, raw. Not changed.
        plans: One for each row. A row with NaN or without a finite maximum gets an `error` and token 0.

    Returns:
        [rows] token ids, int64, on the device of the logits.
    """
    mass = logits.logsumexp(-1)  # [rows]
    tokens = logits.argmax(-1)  # [rows]; NaN wins the argmax, such rows are dealt with below
    healthy = torch.isfinite(mass).tolist()
    drawing = [row for row, plan in enumerate(plans) if healthy[row] and not plan.is_greedy]
    for truncate in (False, True):
        rows = [row for row in drawing if plans[row].truncates is truncate]
        if rows:
            draw = _draw_truncated if truncate else _draw_from_all
            tokens[rows] = draw(logits[rows], [plans[row] for row in rows])
    chosen = (logits.gather(1, tokens[:, None])[:, 0] - mass).tolist()
    for row, plan in enumerate(plans):
        if healthy[row]:
            plan.logprobs.append(chosen[row])
        else:
            plan.error = GenerationError("The model produced NaN or infinite logits for this request.")
            tokens[row] = 0
    return tokens


def _draw_from_all(logits: torch.Tensor, plans: Sequence[SamplingPlan]) -> torch.Tensor:
    return _inverse_cdf(_scaled(logits, plans).double().exp(), plans)


def _draw_truncated(logits: torch.Tensor, plans: Sequence[SamplingPlan]) -> torch.Tensor:
    values, candidates, kept = _truncate(_scaled(logits, plans), plans)  # [rows, candidates], best first
    # In order of the ids, like a draw from the whole vocabulary: how far a neighbour made us look plays no part.
    by_id = candidates.argsort(-1)
    weights = values.double().exp().masked_fill(~kept, 0).gather(1, by_id)
    return candidates.gather(1, by_id).gather(1, _inverse_cdf(weights, plans)[:, None])[:, 0]


def _scaled(logits: torch.Tensor, plans: Sequence[SamplingPlan]) -> torch.Tensor:
    """[rows, vocab] logits over temperature, the best one 0: the smallest temperatures cannot overflow."""
    return (logits - logits.amax(-1, keepdim=True)) / _column([plan.temperature for plan in plans], logits)


def _inverse_cdf(weights: torch.Tensor, plans: Sequence[SamplingPlan]) -> torch.Tensor:
    """Column of each row where the cumulative weight first exceeds uniform * total."""
    cumulative = weights.cumsum(-1)  # float64
    threshold = _column([plan.uniform() for plan in plans], weights) * cumulative[:, -1:]
    columns = torch.searchsorted(cumulative, threshold, right=True)[:, 0]
    last = weights.shape[1] - 1 - (weights.flip(1) > 0).int().argmax(1)  # rounding must not pick a dropped token
    return torch.minimum(columns, last)


def _truncate(scaled: torch.Tensor, plans: Sequence[SamplingPlan]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The best tokens of each row, and which of them top_k, top_p and min_p keep.

    Returns:
        values, token ids and a mask of what is kept, each [rows, candidates], best first.
    """
    vocab = scaled.shape[-1]
    width = min(vocab, max(_CANDIDATES, *(1 + (plan.top_k or 0) for plan in plans)))
    while True:
        values, candidates = _best(scaled, width)
        kept = _kept(values, scaled, plans)
        worst_kept = values.masked_fill(~kept, torch.inf).amin(-1)
        if width == vocab or (worst_kept > values[:, -1]).all():  # nothing kept, and no tie with it, is missing
            return values, candidates, kept
        width = min(vocab, width * _WIDEN)


def _best(scaled: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `width` largest values of each row and their ids, best first, equal ones in order of their ids."""
    values, ids = scaled.topk(width, dim=-1, sorted=False)
    by_id = ids.argsort(-1)
    values, ids = values.gather(1, by_id), ids.gather(1, by_id)
    order = values.argsort(dim=-1, descending=True, stable=True)
    return values.gather(1, order), ids.gather(1, order)


def _kept(values: torch.Tensor, scaled: torch.Tensor, plans: Sequence[SamplingPlan]) -> torch.Tensor:
    """Mask of the candidates that survive; `values` are sorted, best first."""
    vocab = scaled.shape[-1]
    ranks = [min(plan.top_k or vocab, vocab) for plan in plans]
    kth = values.gather(1, torch.tensor(ranks, device=values.device).clamp(max=values.shape[1])[:, None] - 1)
    kept = values >= kth  # a tie with the k-th stays, as in transformers
    for row, rank in enumerate(ranks):
        if rank > values.shape[1]:
            kept[row] = True
    # the mass that top_p shares out: of what top_k kept, or of the whole vocabulary
    log_mass = torch.where(
        torch.tensor([rank < vocab for rank in ranks], device=values.device),
        values.masked_fill(~kept, -torch.inf).logsumexp(-1),
        scaled.logsumexp(-1),
    )
    probabilities = (values - log_mass[:, None]).exp().masked_fill(~kept, 0)
    before = probabilities.double().cumsum(-1) - probabilities.double()  # mass of the better ones
    kept &= before < _column([_limit(plan.top_p) for plan in plans], before)
    kept &= probabilities >= probabilities[:, :1] * _column([plan.min_p or 0.0 for plan in plans], values)
    kept[:, 0] = True
    return kept


def _limit(top_p: float | None) -> float:
    return torch.inf if top_p is None or top_p >= 1 else top_p  # rounding may bring the whole mass above 1


def _column(numbers: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    """[rows, 1], with the dtype and device of `like`."""
    return torch.tensor(numbers, dtype=like.dtype, device=like.device)[:, None]
