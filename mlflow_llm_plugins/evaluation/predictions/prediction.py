"""The answer to one row of data, and what was measured on its way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Prediction:
    """Either an answer or an error; times are seconds from sending the request."""

    output: Any = None  # a string for language models; what the model gave for others
    error: str | None = None  # why there is none; without the row's text or traces
    latency: float | None = None  # until the whole answer was there
    token_times: tuple[float, ...] = ()  # until each token, where the model streams
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    others: Mapping[str, Any] = field(default_factory=dict)  # other output columns of the row

    @property
    def time_to_first_token(self) -> float | None:
        """None where the model does not stream."""
        return self.token_times[0] if self.token_times else None

    @property
    def time_per_output_token(self) -> float | None:
        """Mean time of the tokens after the first; None for a single token and where that is not known."""
        if self.latency is None or not self.token_times or (self.completion_tokens or 0) < 2:
            return None
        return (self.latency - self.token_times[0]) / ((self.completion_tokens or 0) - 1)

    @property
    def token_gaps(self) -> tuple[float, ...]:
        """Times between neighbouring tokens; 0 between those that came together."""
        return tuple(after - before for before, after in zip(self.token_times, self.token_times[1:], strict=False))
