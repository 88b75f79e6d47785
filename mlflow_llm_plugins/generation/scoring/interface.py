"""The seam between an engine and what scores texts for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mlflow_llm_plugins.generation.engine import ChoiceScores, TokenScores
from mlflow_llm_plugins.generation.scoring.choice_tree import ChoiceRow


class Scoring(Protocol):
    """Log-probabilities of token ids that have been checked; all methods may be called from any thread."""

    @property
    def weight_bytes(self) -> int:
        """What the model's weights take in memory, once; 0 where that is not known."""

    def score(self, texts: Sequence[list[int]], top_logprobs: int = 0) -> list[TokenScores]:
        """Log-probability of tokens 2 to n of each text, and the best tokens there; empty for a text of one token."""

    def logits(self, ids: list[int], first: int) -> Iterator[NDArray[np.float32]]:
        """The logits that predict the tokens `first` to the last; see `GenerationEngine.logits`."""

    def choose(self, rows: Sequence[ChoiceRow]) -> list[ChoiceScores]:
        """Log-probability of each tail after its stem; what rows share is computed once."""

    def close(self) -> None:
        """Free what is kept between calls, and stop calls that run at their next pass."""
