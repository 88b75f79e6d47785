"""Draws a token of each row, vectorised over the rows of a step, without sorting the vocabulary.

Meaning and order of the truncations are transformers': logits / temperature, then top_k, top_p, min_p. All three keep
the tokens above some probability, so tokens that are exactly as probable as the last one kept stay as well.

A draw is the inverse of the cumulative distribution in order of the token ids, in float64, at a uniform number that
depends on the row alone. Truncation looks at the best few tokens. Where a nucleus (top_p) has more of them, the draw
is made from all tokens and repeated until it falls into the nucleus, which gives the same distribution. Nothing that a
row gets depends on its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

_LOOKS = (64, 512)  # tokens; most nuclei are smaller. In wide rows the second look takes longer than a draw from all
_WIDEN = 8  # for ties that reach beyond what was looked at
_BLOCK = 128  # columns that wide rows are divided into
_WIDE = 16_384  # columns from which the detour over blocks is faster
_ATTEMPTS = 16  # draws from all tokens, before the edge of a nucleus is searched for
_FLOAT_BITS = 31  # of a float32 that is not negative; in this order integers and floats are sorted alike


class Draw(Protocol):
    """How one row is drawn from."""

    @property
    def temperature(self) -> float:
        """Above 0."""

    @property
    def top_k(self) -> int | None:
        """None or 0: all."""

    @property
    def top_p(self) -> float | None:
        """None or 1: all."""

    @property
    def min_p(self) -> float | None:
        """None or 0: all."""

    def uniform(self, attempt: int = 0) -> float:
        """A number in [0, 1), the same at each call."""


def draw(logits: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    """Draw from each row.

    Args:
        logits: [rows, vocab], float32; -inf is never drawn, every row has something finite. Not changed.
        draws: One for each row.

    Returns:
        [rows] token ids, int64.
    """
    temperatures = [one.temperature for one in draws]
    scaled = logits if all(t == 1 for t in temperatures) else logits / _column(temperatures, logits)
    probabilities = scaled.softmax(-1)  # [rows, vocab]
    vocab = logits.shape[1]
    by_rank = [row for row, one in enumerate(draws) if _ranks(one, vocab)]
    by_mass = [row for row, one in enumerate(draws) if row not in by_rank and (one.top_p or 1.0) < 1.0]
    from_all = [row for row in range(len(draws)) if row not in by_rank and row not in by_mass]
    tokens = torch.empty(len(draws), dtype=torch.long, device=logits.device)
    for rows, method in ((by_rank, _draw_by_rank), (by_mass, _draw_by_mass), (from_all, _draw_from_all)):
        if rows:
            tokens[rows] = method(take(probabilities, rows), [draws[row] for row in rows])
    return tokens


def top(values: torch.Tensor, count: int, peaks: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """The `count` largest values of each row and their columns, best first.

    The largest values of a wide row lie in the blocks whose own largest values, the `peaks`, are the largest.
    """
    rows, width = values.shape
    count = min(count, width)
    if width < _WIDE or 2 * count * _BLOCK > width:
        best = values.topk(count, dim=-1)
        return best.values, best.indices
    blocks = _in_blocks(values, -torch.inf)  # [rows, blocks, _BLOCK]
    peaks = blocks.amax(-1) if peaks is None else peaks
    chosen = peaks.topk(count, dim=-1, sorted=False).indices  # [rows, count]
    inside = blocks.gather(1, chosen[:, :, None].expand(-1, -1, _BLOCK)).view(rows, -1)
    best = inside.topk(count, dim=-1)
    return best.values, chosen.gather(1, best.indices // _BLOCK) * _BLOCK + best.indices % _BLOCK


def argmax(values: torch.Tensor) -> torch.Tensor:
    """[rows] column of the largest value, the first of equal ones; ten times faster than torch's on wide rows."""
    if values.shape[1] < _WIDE:
        return values.argmax(-1)
    blocks = _in_blocks(values, -torch.inf)
    block = blocks.amax(-1).argmax(-1)  # [rows]
    inside = blocks[torch.arange(len(values), device=values.device), block]
    return block * _BLOCK + inside.argmax(-1)


def _draw_from_all(probabilities: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    return _inverse_cdf(_above_min_p(probabilities, draws), [one.uniform() for one in draws])


def _draw_by_rank(probabilities: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    """Rows with top_k, which bounds what must be looked at."""
    vocab = probabilities.shape[1]
    width = max(1 + (one.top_k or 0) for one in draws)
    while True:
        values, ids = top(probabilities, width)
        kept = _kept(values, draws, vocab)
        if width >= vocab or _is_complete(values, kept).all():
            return _draw_from_candidates(values, ids, kept, draws)
        width *= _WIDEN


def _draw_by_mass(probabilities: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    """Rows with top_p and without top_k: from the best tokens where these hold the nucleus."""
    tokens = torch.empty(len(draws), dtype=torch.long, device=probabilities.device)
    nuclei = _Nuclei.of(probabilities, draws)
    pending = list(range(len(draws)))
    for width in _LOOKS if probabilities.shape[1] < _WIDE else _LOOKS[:1]:
        may_fit = nuclei.may_fit(width)
        looked = [row for row in pending if may_fit[row]]
        if looked:
            tokens[looked], complete = nuclei.take(looked).draw_from_best(width)
            done = {row for row, whole in zip(looked, complete, strict=True) if whole}
            pending = [row for row in pending if row not in done]
    if pending:
        tokens[pending] = nuclei.take(pending).draw_until_inside()
    return tokens


@dataclass(frozen=True, slots=True)
class _Nuclei:
    """Rows with top_p, and what their blocks of columns tell; a narrow row is one block for each token."""

    probabilities: torch.Tensor  # [rows, vocab]
    draws: Sequence[Draw]
    top_p: torch.Tensor  # [rows, 1]
    peaks: torch.Tensor  # [rows, blocks] the best of each
    sums: torch.Tensor  # [rows, blocks]

    @classmethod
    def of(cls, probabilities: torch.Tensor, draws: Sequence[Draw]) -> _Nuclei:
        peaks = sums = probabilities
        if probabilities.shape[1] >= _WIDE:
            blocks = _in_blocks(probabilities, 0.0)
            peaks, sums = blocks.amax(-1), blocks.sum(-1)
        return cls(probabilities, draws, _top_p(draws, probabilities), peaks, sums)

    def take(self, rows: Sequence[int]) -> _Nuclei:
        """Some of the rows."""
        if len(rows) == len(self.draws):
            return self
        tensors = (self.top_p, self.peaks, self.sums)
        top_p, peaks, sums = (take(values, rows) for values in tensors)
        return _Nuclei(take(self.probabilities, rows), [self.draws[row] for row in rows], top_p, peaks, sums)

    def may_fit(self, width: int) -> list[bool]:
        """Which nuclei have `width` tokens or fewer, as it seems: few of the best tokens share a block."""
        best = self.peaks.topk(min(width, self.peaks.shape[1]), dim=-1, sorted=False).values
        fits: list[bool] = (best.sum(-1, keepdim=True) >= self.top_p).flatten().tolist()
        return fits

    def draw_from_best(self, width: int) -> tuple[torch.Tensor, list[bool]]:
        """A draw from the `width` best tokens, and whether these hold all that is kept."""
        values, ids = top(self.probabilities, width, self.peaks)
        kept = _kept(values, self.draws, self.probabilities.shape[1])
        complete = _is_complete(values, kept) | (values.shape[1] == self.probabilities.shape[1])
        return _draw_from_candidates(values, ids, kept, self.draws), complete.tolist()

    def draw_until_inside(self) -> torch.Tensor:
        """A draw from all tokens, repeated until it falls into the nucleus, which at least top_p of all draws do."""
        tokens = torch.empty(len(self.draws), dtype=torch.long, device=self.probabilities.device)
        missing = list(range(len(self.draws)))
        for attempt in range(_ATTEMPTS):
            some = self.take(missing)
            weights = _above_min_p(some.probabilities, some.draws)
            uniforms = [one.uniform(attempt) for one in some.draws]
            drawn = _inverse_cdf(weights, uniforms, some.sums if weights is some.probabilities else None)
            inside = some.are_inside(drawn[:, None])
            accepted = [i for i, it_is in enumerate(inside) if it_is]
            tokens[[missing[i] for i in accepted]] = drawn[accepted]
            missing = [row for row, it_is in zip(missing, inside, strict=True) if not it_is]
            if not missing:
                return tokens
        some = self.take(missing)
        edge = _edge(some.probabilities, some.top_p)
        weights = _above_min_p(some.probabilities, some.draws).masked_fill(some.probabilities < edge, 0)
        tokens[missing] = _inverse_cdf(weights, [one.uniform(_ATTEMPTS) for one in some.draws])
        return tokens

    def are_inside(self, tokens: torch.Tensor) -> list[bool]:
        """Whether the mass above each token, [rows, 1], is less than top_p: blocks tell in most rows."""
        floor = self.probabilities.gather(1, tokens)
        above = (self.peaks > floor).to(self.sums.dtype)  # [rows, blocks]
        inside = ((above * self.sums).sum(-1, keepdim=True) < self.top_p).flatten()
        outside = ((above * self.peaks).sum(-1, keepdim=True) >= self.top_p).flatten()
        unsure = (~(inside | outside)).nonzero()[:, 0].tolist()
        if unsure:
            mass = _mass_above(take(self.probabilities, unsure), floor[unsure])
            inside[unsure] = (mass < self.top_p[unsure])[:, 0]
        told: list[bool] = inside.tolist()
        return told


def _edge(probabilities: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """[rows, 1] the smallest probability at which the mass above is below top_p, by bisection over all floats."""
    low = torch.full_like(top_p, -1, dtype=torch.int32)
    high = probabilities.amax(-1, keepdim=True).view(torch.int32)
    for _ in range(_FLOAT_BITS + 1):
        middle = low + (high - low) // 2
        inside = (middle >= 0) & (_mass_above(probabilities, middle.clamp(min=0).view(torch.float32)) < top_p)
        low, high = torch.where(inside, low, middle), torch.where(inside, middle, high)
    return high.view(torch.float32)


def _mass_above(probabilities: torch.Tensor, floor: torch.Tensor) -> torch.Tensor:
    """[rows, 1] mass of the tokens above `floor`, [rows, 1]; arithmetic is twice as fast as a choice by a mask."""
    above = (probabilities - floor).sign_().clamp_(min=0)
    return above.mul_(probabilities).sum(-1, keepdim=True)


def _ranks(one: Draw, vocab: int) -> bool:
    """Whether top_k excludes anything."""
    return 0 < (one.top_k or 0) < vocab


def _kept(values: torch.Tensor, draws: Sequence[Draw], vocab: int) -> torch.Tensor:
    """Mask of the candidates that survive; `values` are probabilities [rows, candidates], best first."""
    width = values.shape[1]
    ranks = [min(one.top_k or width, width) for one in draws]
    kept = values >= values.gather(1, torch.tensor(ranks, device=values.device)[:, None] - 1)
    by_rank = torch.tensor([_ranks(one, vocab) for one in draws], device=values.device)
    mass = torch.where(by_rank, (values * kept).sum(-1), 1.0)[:, None]  # what top_p is a share of
    cumulative = (values.double() * kept).cumsum(-1)
    first_equal = torch.searchsorted(-values, -values)  # column of the first candidate as probable
    before = torch.where(first_equal > 0, cumulative.gather(1, (first_equal - 1).clamp(min=0)), 0)
    kept &= before < _top_p(draws, before) * mass
    kept &= values > 0  # or a tie of tokens that cannot be drawn would be followed to the end of the vocabulary
    kept &= values >= values[:, :1] * _column([one.min_p or 0.0 for one in draws], values)
    return kept


def _is_complete(values: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """[rows] whether nothing kept, and no tie with it, can lie beyond the candidates."""
    return values.masked_fill(~kept, torch.inf).amin(-1) > values[:, -1]


def _draw_from_candidates(
    values: torch.Tensor, ids: torch.Tensor, kept: torch.Tensor, draws: Sequence[Draw]
) -> torch.Tensor:
    by_id = ids.argsort(-1)  # like a draw from the whole vocabulary: how far one looked plays no part
    weights = (values * kept).gather(1, by_id)
    columns = _inverse_cdf(weights, [one.uniform() for one in draws])
    return ids.gather(1, by_id).gather(1, columns[:, None])[:, 0]


def _above_min_p(probabilities: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    shares = [one.min_p or 0.0 for one in draws]
    if not any(shares):
        return probabilities
    floor = probabilities.amax(-1, keepdim=True) * _column(shares, probabilities)
    return probabilities.masked_fill(probabilities < floor, 0)


def _inverse_cdf(weights: torch.Tensor, uniforms: Sequence[float], sums: torch.Tensor | None = None) -> torch.Tensor:
    """[rows] column of each row where the cumulative weight, in float64, first exceeds uniform * total.

    `sums` are those of the blocks of wide rows, if they are known.
    """
    uniform = torch.tensor(uniforms, dtype=torch.float64, device=weights.device)[:, None]
    if weights.shape[1] < _WIDE:
        cumulative = weights.double().cumsum(-1)
        return _first_above(cumulative, uniform * cumulative[:, -1:], weights)
    rows = torch.arange(len(weights), device=weights.device)
    blocks = _in_blocks(weights, 0.0)
    sums = blocks.sum(-1) if sums is None else sums  # float32: a few values of a block have no more digits
    cumulative = sums.double().cumsum(-1)
    threshold = uniform * cumulative[:, -1:]
    block = _first_above(cumulative, threshold, sums)
    before = cumulative[rows, block] - sums[rows, block]
    inside = blocks[rows, block]  # [rows, _BLOCK]
    return block * _BLOCK + _first_above(inside.double().cumsum(-1), threshold - before[:, None], inside)


def _first_above(cumulative: torch.Tensor, threshold: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """[rows] first column above the threshold; never one without weight, which rounding could bring."""
    columns = torch.searchsorted(cumulative, threshold, right=True)[:, 0]
    has_weight = (weights > 0).byte()
    first = has_weight.argmax(1)
    last = weights.shape[1] - 1 - has_weight.flip(1).argmax(1)
    return torch.minimum(torch.maximum(columns, first), last)


def _in_blocks(values: torch.Tensor, padding: float) -> torch.Tensor:
    """[rows, blocks, _BLOCK]; a view where the width is a multiple of the block's."""
    missing = -values.shape[1] % _BLOCK
    padded = torch.nn.functional.pad(values, (0, missing), value=padding) if missing else values
    return padded.reshape(len(values), -1, _BLOCK)


def take(values: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    return values if len(rows) == len(values) else values[list(rows)]


def _top_p(draws: Sequence[Draw], like: torch.Tensor) -> torch.Tensor:
    """[rows, 1]; rounding may bring the whole mass above 1, which keeps all."""
    return _column([torch.inf if (one.top_p or 1.0) >= 1 else one.top_p or 1.0 for one in draws], like)


def _column(numbers: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    """[rows, 1], with the dtype and device of `like`."""
    return torch.tensor(numbers, dtype=like.dtype, device=like.device)[:, None]
