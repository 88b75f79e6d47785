"""Draws a token of each row, vectorised over the rows of a step.

A draw is the inverse of the cumulative distribution in order of the token ids, at a uniform number that depends on the
row alone. Truncation looks at the best few tokens only. Nothing that a row gets depends on its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mlflow_llm_plugins.generation.sampling.nucleus import Nuclei
from mlflow_llm_plugins.generation.sampling.rows import Rows, column
from mlflow_llm_plugins.generation.sampling.truncation import (
    Draw,
    above_min_p,
    draw_from_candidates,
    is_complete,
    kept,
    ranks,
)

_LOOKS = (64, 512)  # tokens; most nuclei are smaller. In wide rows the second look takes longer than a draw from all
_WIDEN = 8  # for ties that reach beyond what was looked at


def draw(logits: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    """Draw from each row.

    Args:
        logits: [rows, vocab], float32; -inf is never drawn. Divided by its temperature, the largest of each row must
            be finite. Not changed.
        draws: One for each row.

    Returns:
        [rows] token ids, int64.
    """
    temperatures = [one.temperature for one in draws]
    scaled = logits if all(t == 1 for t in temperatures) else logits / column(temperatures, logits)
    probabilities = Rows.of(scaled.softmax(-1), 0.0)
    vocab = logits.shape[1]
    by_rank = [row for row, one in enumerate(draws) if ranks(one, vocab)]
    by_mass = [row for row, one in enumerate(draws) if row not in by_rank and (one.top_p or 1.0) < 1.0]
    from_all = [row for row in range(len(draws)) if row not in by_rank and row not in by_mass]
    tokens = torch.empty(len(draws), dtype=torch.long, device=logits.device)
    for rows, method in ((by_rank, _draw_by_rank), (by_mass, _draw_by_mass), (from_all, _draw_from_all)):
        if rows:
            tokens[rows] = method(probabilities.take(rows), [draws[row] for row in rows])
    return tokens


def _draw_from_all(probabilities: Rows, draws: Sequence[Draw]) -> torch.Tensor:
    weights = above_min_p(probabilities, draws)
    return weights.inverse_cdf([one.uniform() for one in draws], weights.sums())


def _draw_by_rank(probabilities: Rows, draws: Sequence[Draw]) -> torch.Tensor:
    """Rows with top_k, which bounds what must be looked at."""
    vocab = probabilities.width
    width = max(1 + (one.top_k or 0) for one in draws)
    while True:
        values, ids = probabilities.top(width)
        inside = kept(values, draws, vocab)
        if width >= vocab or is_complete(values, inside).all():
            return draw_from_candidates(values, ids, inside, draws)
        width *= _WIDEN


def _draw_by_mass(probabilities: Rows, draws: Sequence[Draw]) -> torch.Tensor:
    """Rows with top_p and without top_k: from the best tokens where these hold the nucleus."""
    tokens = torch.empty(len(draws), dtype=torch.long, device=probabilities.index.device)
    nuclei = Nuclei.of(probabilities, draws)
    pending = list(range(len(draws)))
    for width in _LOOKS if probabilities.size == 1 else _LOOKS[:1]:
        may_fit = nuclei.may_fit(width)
        looked = [row for row in pending if may_fit[row]]
        if looked:
            tokens[looked], complete = nuclei.take(looked).draw_from_best(width)
            done = {row for row, whole in zip(looked, complete, strict=True) if whole}
            pending = [row for row in pending if row not in done]
    if pending:
        tokens[pending] = nuclei.take(pending).draw_until_inside()
    return tokens
