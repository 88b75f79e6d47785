"""Rows as wide as a vocabulary: their largest values, sums and draws, without sorting them.

Wide rows are looked at in blocks of columns. What a row gives does not depend on the rows beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

BLOCK = 128  # columns of a block
WIDE = 16_384  # columns from which the detour over blocks is faster


def take(values: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    """Some of the rows, each once and in ascending order; all of them are the tensor itself."""
    return values if len(rows) == len(values) else values[list(rows)]


def column(numbers: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    """[rows, 1], with the dtype and device of `like`."""
    return torch.tensor(numbers, dtype=like.dtype, device=like.device)[:, None]


def in_blocks(values: torch.Tensor, padding: float) -> torch.Tensor:
    """[rows, blocks, BLOCK]; a view where the width is a multiple of the block's."""
    missing = -values.shape[1] % BLOCK
    padded = torch.nn.functional.pad(values, (0, missing), value=padding) if missing else values
    return padded.reshape(len(values), -1, BLOCK)


def top(values: torch.Tensor, count: int, peaks: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """The `count` largest values of each row and their columns, best first.

    The largest values of a wide row lie in the blocks whose own largest values, the `peaks`, are the largest.
    """
    rows, width = values.shape
    count = min(count, width)
    if width < WIDE or 2 * count * BLOCK > width:
        best = values.topk(count, dim=-1)
        return best.values, best.indices
    blocks = in_blocks(values, -torch.inf)  # [rows, blocks, BLOCK]
    peaks = blocks.amax(-1) if peaks is None else peaks
    chosen = peaks.topk(count, dim=-1, sorted=False).indices  # [rows, count]
    inside = blocks.gather(1, chosen[:, :, None].expand(-1, -1, BLOCK)).view(rows, -1)
    best = inside.topk(count, dim=-1)
    return best.values, chosen.gather(1, best.indices // BLOCK) * BLOCK + best.indices % BLOCK


def argmax(values: torch.Tensor) -> torch.Tensor:
    """[rows] column of the largest value, the first of equal ones; ten times faster than torch's on wide rows."""
    if values.shape[1] < WIDE:
        return values.argmax(-1)
    blocks = in_blocks(values, -torch.inf)
    block = blocks.amax(-1).argmax(-1)  # [rows]
    inside = blocks[torch.arange(len(values), device=values.device), block]
    return block * BLOCK + inside.argmax(-1)


def inverse_cdf(weights: torch.Tensor, uniforms: Sequence[float], sums: torch.Tensor | None = None) -> torch.Tensor:
    """[rows] column of each row where the cumulative weight first exceeds uniform * total; one that has a weight.

    Cumulated in float64; the sums of blocks alone are float32, like the weights themselves.

    Args:
        weights: [rows, width], none below 0, each row with one above.
        uniforms: One in [0, 1) for each row.
        sums: [rows, blocks] of wide rows, if they are known.
    """
    uniform = torch.tensor(uniforms, dtype=torch.float64, device=weights.device)[:, None]
    if weights.shape[1] < WIDE:
        cumulative = weights.double().cumsum(-1)
        return _first_above(cumulative, uniform * cumulative[:, -1:], weights)
    rows = torch.arange(len(weights), device=weights.device)
    blocks = in_blocks(weights, 0.0)
    sums = blocks.sum(-1) if sums is None else sums
    cumulative = sums.double().cumsum(-1)
    threshold = uniform * cumulative[:, -1:]
    block = _first_above(cumulative, threshold, sums)
    before = cumulative[rows, block] - sums[rows, block]
    inside = blocks[rows, block]  # [rows, BLOCK]
    columns = block * BLOCK + _first_above(inside.double().cumsum(-1), threshold - before[:, None], inside)
    return columns.clamp_(max=weights.shape[1] - 1)


def _first_above(cumulative: torch.Tensor, threshold: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """[rows] first column above the threshold; never one without weight, which rounding could bring."""
    columns = torch.searchsorted(cumulative, threshold, right=True)[:, 0]
    has_weight = (weights > 0).byte()
    first = has_weight.argmax(1)
    last = weights.shape[1] - 1 - has_weight.flip(1).argmax(1)
    return torch.minimum(torch.maximum(columns, first), last)
