"""A loaded model, in the form that an engine takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Components:
    """A model and its tokenizer."""

    model: Any  # a `PreTrainedModel`, or the folder of an OpenVINO model
    tokenizer: Any
