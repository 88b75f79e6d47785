"""What was measured, and the figures that follow from it. All times are seconds.

The names are those of vLLM's benchmark. Two of them mean something else elsewhere: `inter_token_latency` here is all
gaps between chunks, pooled over the requests, and `time_per_output_token` is one mean for each request (which
genai-perf calls inter-token latency). A chunk may hold several tokens, so tokens are counted by the server's `usage`
and never by chunks.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from typing_extensions import Self

from mlflow_llm_plugins.loadtest.settings import Load, Objective, Target


@dataclass(frozen=True, slots=True)
class RequestResult:
    """One request that ended, well or not; points in time count from the start of the load."""

    sent_s: float
    ended_s: float  # its last chunk, or when it failed
    first_token_s: float | None = None  # first chunk with content; None: whole answers, or none came
    gaps_s: tuple[float, ...] = ()  # between chunks with content; 0 between those that arrived together
    prompt_tokens: int | None = None  # by the server's usage; None: it sent none
    completion_tokens: int | None = None
    status: int | None = None  # of HTTP; None: the server did not answer
    failure: str = ""  # its kind; empty: the request succeeded
    late_s: float = 0.0  # open loop: how long after its time it was sent

    @property
    def end_to_end_latency(self) -> float:
        """From sending to the last chunk."""
        return self.ended_s - self.sent_s

    @property
    def time_to_first_token(self) -> float | None:
        """From sending to the first chunk with content; None where that is not known."""
        return None if self.first_token_s is None else self.first_token_s - self.sent_s

    @property
    def time_per_output_token(self) -> float | None:
        """Mean time of the tokens after the first; None for a single token, and where count or time is not known."""
        if self.first_token_s is None or self.completion_tokens is None or self.completion_tokens < 2:
            return None
        return (self.ended_s - self.first_token_s) / (self.completion_tokens - 1)


@dataclass(frozen=True, slots=True)
class Distribution:
    """Mean and percentiles of some durations, in seconds."""

    mean: float
    p50: float
    p90: float
    p99: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Self | None:
        """Describe the values that are known; None where there are none."""
        known = sorted(value for value in values if value is not None)
        if not known:
            return None
        p50, p90, p99 = (percentile(known, share) for share in (50, 90, 99))
        return cls(mean=math.fsum(known) / len(known), p50=p50, p90=p90, p99=p99, count=len(known))


def percentile(ordered: Sequence[float], percent: float) -> float:
    """A percentile of ascending values, between two neighbours in proportion, as numpy's default has it."""
    place = (len(ordered) - 1) * percent / 100
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


@dataclass(frozen=True, slots=True)
class LoadResult:
    """All requests of a load that ended. Latencies and throughput are of those that succeeded."""

    target: Target
    load: Load
    requests: tuple[RequestResult, ...]  # in the order in which they ended
    date: str  # and time when the load began, ISO 8601; empty: it was interrupted before
    cpu_s: float  # CPU time of this process meanwhile: near the wall time, the generator itself was the limit
    interrupted: bool = False

    @property
    def succeeded(self) -> list[RequestResult]:
        """The requests that were answered in full."""
        return [request for request in self.requests if not request.failure]

    @property
    def failures(self) -> dict[str, int]:
        """Kind of failure -> how many, the most frequent first."""
        return dict(Counter(request.failure for request in self.requests if request.failure).most_common())

    @property
    def duration_s(self) -> float:
        """From the first request's sending to the last one's end."""
        if not self.requests:
            return 0.0
        return max(request.ended_s for request in self.requests) - min(request.sent_s for request in self.requests)

    @property
    def requests_per_second(self) -> float:
        """Answered requests over the duration."""
        return self._per_second(len(self.succeeded))

    @property
    def without_usage(self) -> int:
        """Answers whose tokens the server did not count."""
        return sum(request.completion_tokens is None for request in self.succeeded)

    @property
    def prompt_tokens(self) -> int | None:
        """Of all answered requests together; None where the server left out a count."""
        return _total(request.prompt_tokens for request in self.succeeded)

    @property
    def completion_tokens(self) -> int | None:
        """Of all answers together; None where the server left out a count."""
        return _total(request.completion_tokens for request in self.succeeded)

    @property
    def output_tokens_per_second(self) -> float | None:
        """Tokens of all answers over the duration; None where the server left out a count."""
        return None if self.completion_tokens is None else self._per_second(self.completion_tokens)

    @property
    def time_to_first_token(self) -> Distribution | None:
        """One value for each request; in a closed loop above the server's capacity it is mostly waiting."""
        return Distribution.of(request.time_to_first_token for request in self.succeeded)

    @property
    def inter_token_latency(self) -> Distribution | None:
        """All gaps between chunks, pooled over the requests, so long answers weigh more."""
        return Distribution.of(gap for request in self.succeeded for gap in request.gaps_s)

    @property
    def time_per_output_token(self) -> Distribution | None:
        """One mean for each request with two tokens or more."""
        return Distribution.of(request.time_per_output_token for request in self.succeeded)

    @property
    def end_to_end_latency(self) -> Distribution | None:
        """One value for each request."""
        return Distribution.of(request.end_to_end_latency for request in self.succeeded)

    @property
    def latest_s(self) -> float:
        """Open loop: the longest that the generator was behind its own plan."""
        return max((request.late_s for request in self.requests), default=0.0)

    def goodput(self, objective: Objective) -> float | None:
        """Requests a second that kept every limit; an answer of one token keeps any limit on time per output token.

        None where a limit is on a time that was not measured: of whole answers, or without the server's usage.
        """
        kept = [_keeps(request, objective.limits()) for request in self.succeeded]
        return None if None in kept else self._per_second(sum(map(bool, kept)))

    def _per_second(self, amount: float) -> float:
        return amount / self.duration_s if self.duration_s > 0 else 0.0


def _total(counts: Iterable[int | None]) -> int | None:
    total = 0
    for count in counts:
        if count is None:
            return None
        total += count
    return total


def _keeps(request: RequestResult, limits: dict[str, float]) -> bool | None:
    """None: not all of it was measured."""
    values = [(LIMITED[name](request), limit) for name, limit in limits.items()]
    if any(value is None for value, _ in values):
        return None
    return all(value <= limit for value, limit in values if value is not None)


def _limited_time_per_output_token(request: RequestResult) -> float | None:
    if request.first_token_s is not None and request.completion_tokens in (0, 1):
        return 0.0
    return request.time_per_output_token


LIMITED: dict[str, Callable[[RequestResult], float | None]] = {
    "ttft": lambda request: request.time_to_first_token,
    "tpot": _limited_time_per_output_token,
    "e2el": lambda request: request.end_to_end_latency,
}
