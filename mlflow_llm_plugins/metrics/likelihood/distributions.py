"""What two models say about the same places of a text, reduced at once to four numbers a token.

Two slices of logits are all that exists at a time, and float64 copies of a few of their rows: a vocabulary of 128,256
makes 131 MB of a slice and 8 MB of the copies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from mlflow_llm_plugins.errors import GenerationError
from mlflow_llm_plugins.metrics.likelihood.figures import Numbers
from mlflow_llm_plugins.metrics.likelihood.same_tokens import refuse_other_width

Logits = NDArray[np.float32]  # [places, vocabulary]

_CHUNK_NUMBERS = 2**18  # float64 numbers of one copy: they fit a cache, which makes it five times faster than 2**22


@dataclass(frozen=True, slots=True)
class TokenComparison:
    """One entry a token."""

    nll_baseline: Numbers  # negative log-probability of the token
    nll_model: Numbers
    divergence: Numbers  # Kullback-Leibler, of the model from the baseline; never below 0
    same_top: NDArray[np.bool_]  # whether both hold the same token for the most probable one

    @property
    def flaw(self) -> str | None:
        """Why these are no numbers to go on with; None where they are."""
        values = [getattr(self, field.name) for field in fields(self)]
        if any(np.isnan(column).any() for column in values):
            return "a model gave logits that are no numbers"
        if np.isinf(self.nll_baseline).any() or np.isinf(self.nll_model).any():
            return "a model gives a token of the text the probability 0"
        if np.isinf(self.divergence).any():
            return "the model gives the probability 0 to a token that the baseline gives more: infinite divergence"
        return None


def join(parts: Sequence[TokenComparison]) -> TokenComparison:
    """Those of several places, one behind the other."""
    names = [field.name for field in fields(TokenComparison)]
    return TokenComparison(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def compare(baseline: Iterable[Logits], model: Iterable[Logits], targets: Sequence[int]) -> TokenComparison:
    """Compare two models on the places before `targets`.

    Args:
        baseline: Slices of logits in order, each read before the next is asked for.
        model: The same for the other model; its slices may end elsewhere.
        targets: The tokens that stand in the text.

    Raises:
        InvalidInputError: The vocabularies differ in size.
        GenerationError: There are other than one row of logits a target.
    """
    wanted = np.asarray(targets)
    parts: list[TokenComparison] = []
    done = 0
    for ours, theirs in side_by_side(iter(baseline), iter(model)):
        refuse_other_width(ours.shape[1], theirs.shape[1])
        parts += _in_chunks(ours, theirs, wanted[done : done + len(ours)])
        done += len(ours)
        del ours, theirs  # views, which would keep slices while the next ones are computed
    if done != len(wanted):
        raise GenerationError(f"An engine gave logits for {done} places, {len(wanted)} were asked for.")
    return join(parts)


def side_by_side(one: Iterator[Logits], other: Iterator[Logits]) -> Iterator[tuple[Logits, Logits]]:
    """The same places of both, as many at a time as both slices have; ends with the shorter one."""
    left, right = next(one, None), next(other, None)
    while left is not None and right is not None:
        rows = min(len(left), len(right))
        yield left[:rows], right[:rows]
        # What is read to its end goes before the next one is computed.
        left, right = left[rows:] if len(left) > rows else None, right[rows:] if len(right) > rows else None
        left = next(one, None) if left is None else left
        right = next(other, None) if right is None else right


def _in_chunks(baseline: Logits, model: Logits, targets: NDArray[np.int_]) -> Iterator[TokenComparison]:
    rows = max(1, _CHUNK_NUMBERS // baseline.shape[1])
    for start in range(0, len(targets), rows):
        end = min(start + rows, len(targets))
        yield _reduced(baseline[start:end], model[start:end], targets[start:end])


@np.errstate(invalid="ignore", divide="ignore")  # infinite logits: what comes out tells
def _reduced(baseline: Logits, model: Logits, targets: NDArray[np.int_]) -> TokenComparison:
    """In float64 before the softmax: in float32 a small divergence is mostly rounding."""
    rows = np.arange(len(targets))
    top_p, top_q = baseline.argmax(1), model.argmax(1)
    p, q = baseline.astype(np.float64), model.astype(np.float64)
    p -= p[rows, top_p][:, None]
    q -= q[rows, top_q][:, None]
    at_p, at_q = p[rows, targets], q[rows, targets]
    gap = p - q
    np.exp(p, out=p)
    np.exp(q, out=q)
    mass_p, mass_q = p.sum(1), q.sum(1)
    log_p, log_q = np.log(mass_p), np.log(mass_q)
    divergence = _expected(p, gap) / mass_p - log_p + log_q  # sum p (ln p - ln q), with ln p = gap's part - log_p
    # Nearly equal models come out at -1e-15: rounding.
    return TokenComparison(log_p - at_p, log_q - at_q, np.maximum(divergence, 0), top_p == top_q)


def _expected(weights: Numbers, values: Numbers) -> Numbers:
    """Sums over rows; a token without any probability counts nothing, whatever its logit."""
    sums: Numbers = np.einsum("rv,rv->r", weights, values)
    if np.isnan(sums).any():  # minus infinity, with which some models mask tokens
        sums = np.einsum("rv,rv->r", weights, np.where(weights > 0, values, 0))
    return sums
