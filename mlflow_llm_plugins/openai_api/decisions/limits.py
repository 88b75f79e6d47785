"""How much one decision request may ask."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow_llm_plugins.openai_api.decisions.labels import MOST_LEVELS, MOST_OPTIONS
from mlflow_llm_plugins.openai_api.fields import wrong

_MOST = {
    "max_questions": None,
    "max_options": MOST_OPTIONS,  # there are no more labels
    "max_levels": MOST_LEVELS,
    "max_depth": 100,  # far from where Python's own recursion ends
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionLimits:
    """Upper bounds of a request."""

    max_questions: int = 64
    max_options: int = 255  # of a choice
    max_levels: int = 10  # of a score
    max_depth: int = 32  # objects and arrays within one another, in a state or in instructions

    def __post_init__(self) -> None:
        """Refuse bounds that cannot be kept.

        Raises:
            InvalidInputError: Names the bound and what it can be.
        """
        for name, most in _MOST.items():
            value = getattr(self, name)
            if value < 1 or (most is not None and value > most):
                raise wrong(name, "at least 1" if most is None else f"from 1 to {most}", value)
