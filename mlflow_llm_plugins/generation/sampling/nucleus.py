"""Nuclei: the smallest sets of tokens that have top_p of the mass.

A small nucleus is written out. From a wide one, a token is drawn from all tokens again and again until it falls into
the nucleus, which gives the same distribution; whether it does, the sums of whole blocks of columns tell in most rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mlflow_llm_plugins.generation.sampling.rows import Rows
from mlflow_llm_plugins.generation.sampling.truncation import (
    Draw,
    above_min_p,
    draw_from_candidates,
    is_complete,
    kept,
    top_p,
)

_ATTEMPTS = 16  # draws from all tokens, before the edge of a nucleus is searched for
_FLOAT_BITS = 31  # of a float32 that is not negative; in this order integers and floats are sorted alike


@dataclass(frozen=True, slots=True)
class Nuclei:
    """The nuclei of some rows of probabilities."""

    rows: Rows
    draws: Sequence[Draw]
    top_p: torch.Tensor  # [rows, 1]
    peaks: torch.Tensor  # [rows, blocks] of the rows
    sums: torch.Tensor  # [rows, blocks] of the rows

    @classmethod
    def of(cls, rows: Rows, draws: Sequence[Draw]) -> Nuclei:
        """Look at the blocks once."""
        peaks = rows.peaks()
        return cls(rows, draws, top_p(draws, peaks), peaks, rows.sums())

    def take(self, rows: Sequence[int]) -> Nuclei:
        """Some of these."""
        if len(rows) == len(self.draws):
            return self
        top_p, peaks, sums = (values[list(rows)] for values in (self.top_p, self.peaks, self.sums))
        return Nuclei(self.rows.take(rows), [self.draws[row] for row in rows], top_p, peaks, sums)

    def may_fit(self, width: int) -> list[bool]:
        """Which nuclei may have `width` tokens or fewer; in wide rows as if no two of the best shared a block."""
        if self.rows.size == 1:
            mass = width * self.peaks.amax(-1, keepdim=True)  # at most
        else:
            mass = self.peaks.topk(width, dim=-1, sorted=False).values.sum(-1, keepdim=True)
        fits: list[bool] = (mass >= self.top_p).flatten().tolist()
        return fits

    def draw_from_best(self, width: int) -> tuple[torch.Tensor, list[bool]]:
        """A draw from the `width` best tokens, and whether these hold all that is kept."""
        values, ids = self.rows.top(width, self.peaks)
        inside = kept(values, self.draws, self.rows.width)
        complete = is_complete(values, inside) | (values.shape[1] == self.rows.width)
        return draw_from_candidates(values, ids, inside, self.draws), complete.tolist()

    def draw_until_inside(self) -> torch.Tensor:
        """A draw from all tokens, repeated until it falls into the nucleus, which at least top_p of all draws do."""
        tokens = torch.empty(len(self.draws), dtype=torch.long, device=self.sums.device)
        missing = list(range(len(self.draws)))
        for attempt in range(_ATTEMPTS):
            some = self.take(missing)
            weights = above_min_p(some.rows, some.draws)
            sums = some.sums if weights is some.rows else weights.sums()
            drawn = weights.inverse_cdf([one.uniform(attempt) for one in some.draws], sums)
            inside = some.are_inside(drawn)
            accepted = [i for i, it_is in enumerate(inside) if it_is]
            tokens[[missing[i] for i in accepted]] = drawn[accepted]
            missing = [row for row, it_is in zip(missing, inside, strict=True) if not it_is]
            if not missing:
                return tokens
        tokens[missing] = self.take(missing)._draw_from_edge()
        return tokens

    def are_inside(self, tokens: torch.Tensor) -> list[bool]:
        """Whether the mass above each token, [rows], is less than top_p: blocks tell in most rows."""
        floor = self.rows.at(tokens)
        above = (self.peaks > floor).to(self.sums.dtype)  # [rows, blocks]
        inside = ((above * self.sums).sum(-1, keepdim=True) < self.top_p).flatten()
        outside = ((above * self.peaks).sum(-1, keepdim=True) >= self.top_p).flatten()
        unsure = (~(inside | outside)).nonzero()[:, 0].tolist()
        if unsure:
            mass = _mass_above(self.rows.take(unsure).values, floor[unsure])
            inside[unsure] = (mass < self.top_p[unsure])[:, 0]
        told: list[bool] = inside.tolist()
        return told

    def _draw_from_edge(self) -> torch.Tensor:
        """A draw from the nuclei written out, however wide."""
        values = self.rows.values
        inside = Rows.of(values.masked_fill(values < _edge(values, self.top_p), 0), 0.0)
        weights = above_min_p(inside, self.draws)
        return weights.inverse_cdf([one.uniform(_ATTEMPTS) for one in self.draws], weights.sums())


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
    """[rows, 1] mass of the tokens above `floor`, [rows, 1]; arithmetic is twice as fast as a choice by a mask.

    Summed by blocks, or one row alone could come out differently than among others.
    """
    above = (probabilities - floor).sign_().clamp_(min=0).mul_(probabilities)
    return Rows.of(above, 0.0).sums().sum(-1, keepdim=True, dtype=torch.float64)
