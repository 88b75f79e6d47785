"""From a backend's opinions to a verdict: probabilities, corrected for what labels get without a case."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from mlflow_llm_plugins.metrics.judge.question import Opinion
from mlflow_llm_plugins.metrics.judge.scale import Scale

BiasCorrection = Literal["none", "contextual", "two_orders"]
Probabilities = tuple[float, ...]

LOW_MASS = 0.1  # below, the judge hardly wanted to answer in these terms
_PRIOR_FLOOR = 0.01  # an untrained model gives some labels nothing; dividing by that would let noise decide


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found for one row; probabilities are in the order of the scale's options."""

    choice: int
    probabilities: Probabilities | None  # None: the backend tells none
    choice_mass: float | None = None  # probability that the judge answers with any option at all
    logprobs: Probabilities | None = None  # as the backend gave them
    reversed_logprobs: Probabilities | None = None  # the same where options were listed from the last to the first
    orders_agree: bool | None = None
    rationale: str | None = None

    @property
    def confidence(self) -> float | None:
        """Probability of the choice."""
        return None if self.probabilities is None else self.probabilities[self.choice]

    @property
    def margin(self) -> float | None:
        """By how much the choice is more probable than the next one."""
        if self.probabilities is None:
            return None
        first, second = sorted(self.probabilities, reverse=True)[:2]
        return first - second

    def value(self, scale: Scale) -> float | None:
        """The probability-weighted value, or that of the choice; None for choices without an order."""
        values = scale.values
        if values is None or self.probabilities is None:
            return None if values is None else values[self.choice]
        return math.fsum(p * value for p, value in zip(self.probabilities, values, strict=True))


def verdict_of(opinion: Opinion, prior: Probabilities | None = None) -> Verdict:
    """Read one opinion that is no error.

    Args:
        opinion: Its log-probabilities decide, where it has any.
        prior: Probabilities of the options without a case, see `contextual_prior`.
    """
    probabilities = shares(opinion.logprobs)
    if probabilities is not None and prior is not None:
        probabilities = calibrated(probabilities, prior)
    choice = opinion.choice if probabilities is None else _largest(probabilities)
    assert choice is not None  # else it were an error
    return Verdict(choice, probabilities, _mass(opinion), opinion.logprobs, rationale=opinion.rationale)


def both_orders(first: Opinion, second: Opinion, options: int) -> Verdict:
    """Average two opinions by what the options mean; without probabilities each order is a vote.

    Args:
        first: Of the options in their order.
        second: Of the options from the last to the first.
        options: How many there are.
    """
    one, other = verdict_of(first), verdict_of(turned(second, options))
    pairs = zip(one.probabilities or _vote(one, options), other.probabilities or _vote(other, options), strict=True)
    probabilities = tuple((p + q) / 2 for p, q in pairs)
    return Verdict(
        choice=one.choice if one.choice == other.choice else _largest(probabilities),
        probabilities=probabilities,
        choice_mass=_mean_mass(one.choice_mass, other.choice_mass),
        logprobs=one.logprobs,
        reversed_logprobs=other.logprobs,
        orders_agree=one.choice == other.choice,
        rationale=one.rationale,
    )


def turned(opinion: Opinion, options: int) -> Opinion:
    """The opinion as if the options had been listed the other way round."""
    choice = None if opinion.choice is None else options - 1 - opinion.choice
    logprobs = None if opinion.logprobs is None else opinion.logprobs[::-1]
    return replace(opinion, choice=choice, logprobs=logprobs)


def fault_of(opinion: Opinion, options: int) -> str | None:
    """Why the opinion cannot be used; None if it can."""
    if opinion.error is not None:
        return opinion.error
    logprobs = opinion.logprobs
    if logprobs is not None:
        is_usable = len(logprobs) == options and not any(map(math.isnan, logprobs)) and max(logprobs) > -math.inf
        return None if is_usable else "the judge's probabilities are no numbers"
    is_option = opinion.choice is not None and 0 <= opinion.choice < options
    return None if is_option else "the judge gave no verdict"


def contextual_prior(opinions: Sequence[Opinion]) -> Probabilities | None:
    """What options get without a case: the mean over content-free rows, floored (Zhao et al., 2021).

    None where the backend tells no probabilities.
    """
    known = [p for p in (shares(opinion.logprobs) for opinion in opinions) if p is not None]
    if not known:
        return None
    means = (math.fsum(column) / len(known) for column in zip(*known, strict=True))
    return tuple(max(mean, _PRIOR_FLOOR) for mean in means)


def calibrated(probabilities: Sequence[float], prior: Sequence[float]) -> Probabilities:
    """Probabilities divided by the prior, and normalised again."""
    ratios = [p / q for p, q in zip(probabilities, prior, strict=True)]
    return tuple(ratio / math.fsum(ratios) for ratio in ratios)


def shares(logprobs: Sequence[float] | None) -> Probabilities | None:
    """Probabilities that add up to one; None where there are none."""
    if not logprobs:
        return None
    highest = max(logprobs)
    weights = [math.exp(logprob - highest) for logprob in logprobs]
    return tuple(weight / math.fsum(weights) for weight in weights)


def _vote(verdict: Verdict, options: int) -> Probabilities:
    return tuple(float(i == verdict.choice) for i in range(options))


def _largest(probabilities: Sequence[float]) -> int:
    return max(range(len(probabilities)), key=probabilities.__getitem__)


def _mass(opinion: Opinion) -> float | None:
    """What the backend tells, or what its log-probabilities add up to unless they were normalised."""
    if opinion.choice_mass is not None or opinion.logprobs is None or opinion.is_normalised:
        return opinion.choice_mass
    return min(1.0, math.fsum(map(math.exp, opinion.logprobs)))


def _mean_mass(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else (one + other) / 2
