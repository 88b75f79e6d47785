"""How a model is to be asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """What the caller of an evaluation may choose; checked by the caller's settings."""

    input_column: str | None = None  # that language models are asked with; None: found, see `features`
    predictions_column: str | None = None  # of the answers, where a model gives several; None: there is only one
    params: Mapping[str, Any] = field(default_factory=dict)  # of each request
    max_in_flight: int | None = None  # rows that an engine or endpoint has at once; None: its own number
    max_workers: int = 8  # threads that ask other models; 1: the calling thread does
