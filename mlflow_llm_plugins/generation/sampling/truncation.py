"""Which tokens of a row may be drawn: top_k, top_p and min_p, in this order and with transformers' meaning.

All three keep the tokens above some probability, so tokens that are exactly as probable as the last one kept stay as
well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from mlflow_llm_plugins.generation.sampling.rows import Rows, column


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


def ranks(one: Draw, vocab: int) -> bool:
    """Whether top_k excludes anything."""
    return 0 < (one.top_k or 0) < vocab


def top_p(draws: Sequence[Draw], like: torch.Tensor) -> torch.Tensor:
    """[rows, 1]; rounding may bring the whole mass above 1, which keeps all."""
    return column([torch.inf if (one.top_p or 1.0) >= 1 else one.top_p or 1.0 for one in draws], like)


def kept(values: torch.Tensor, draws: Sequence[Draw], vocab: int) -> torch.Tensor:
    """Mask of the candidates that survive; `values` are probabilities [rows, candidates], best first."""
    width = values.shape[1]
    best = [min(one.top_k or width, width) for one in draws]
    survive = values >= values.gather(1, torch.tensor(best, device=values.device)[:, None] - 1)
    by_rank = torch.tensor([ranks(one, vocab) for one in draws], device=values.device)
    cumulative = (values.double() * survive).cumsum(-1)
    mass = torch.where(by_rank[:, None], cumulative[:, -1:], 1.0)  # what top_p is a share of
    first_equal = torch.searchsorted(-values, -values)  # column of the first candidate as probable
    before = torch.where(first_equal > 0, cumulative.gather(1, (first_equal - 1).clamp(min=0)), 0)
    survive &= before < top_p(draws, before) * mass
    survive &= values > 0  # or a tie of tokens that cannot be drawn would be followed to the end of the vocabulary
    survive &= values >= values[:, :1] * column([one.min_p or 0.0 for one in draws], values)
    return survive


def is_complete(values: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """[rows] whether nothing kept, and no tie with it, can lie beyond the candidates."""
    return values.masked_fill(~kept, torch.inf).amin(-1) > values[:, -1]


def draw_from_candidates(
    values: torch.Tensor, ids: torch.Tensor, kept: torch.Tensor, draws: Sequence[Draw]
) -> torch.Tensor:
    """[rows] tokens: drawn from those that survive, in the order of `ids`."""
    by_id = ids.argsort(-1)  # like a draw from the whole vocabulary: how far one looked plays no part
    weights = Rows.of((values * kept).gather(1, by_id), 0.0)
    columns = weights.inverse_cdf([one.uniform() for one in draws], weights.sums())
    return ids.gather(1, by_id).gather(1, columns[:, None])[:, 0]


def above_min_p(rows: Rows, draws: Sequence[Draw]) -> Rows:
    """The probabilities with 0 in place of what min_p excludes; the same where no row has it."""
    shares = [one.min_p or 0.0 for one in draws]
    if not any(shares):
        return rows
    values = rows.values
    floor = values.amax(-1, keepdim=True) * column(shares, values)
    return Rows.of(values.masked_fill(values < floor, 0), 0.0)
