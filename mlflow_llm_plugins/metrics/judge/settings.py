"""What a judge is, apart from who is asked: checked once, the same for every evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.lookup import did_you_mean
from mlflow_llm_plugins.metrics.judge.prompt import NONCE_RULE, Prompt
from mlflow_llm_plugins.metrics.judge.question import ScaleKind
from mlflow_llm_plugins.metrics.judge.verdict import BiasCorrection

# A case without content deserves the lowest level, so that its probabilities are no bias of a scale's labels.
_DEFAULT_CORRECTION: dict[ScaleKind, BiasCorrection] = {
    "yes_no": "contextual",
    "choice": "contextual",
    "score": "none",
}


@dataclass(frozen=True, slots=True)
class JudgeSettings:
    """How rows are judged."""

    name: str
    prompt: Prompt
    bias_correction: BiasCorrection
    is_correction_asked_for: bool  # then a backend that cannot have it is an error
    rationale: bool
    control_rows: bool
    greater_is_better: bool

    def record(self) -> dict[str, Any]:
        """All that a score depends on besides the judge's model, as JSON."""
        return {
            "prompt": self.prompt.template(),
            "nonce": NONCE_RULE,
            "kind": self.prompt.scale.kind,
            "options": [
                {"label": option.label, "description": option.description, "value": option.value}
                for option in self.prompt.scale.options
            ],
            "columns": list(self.prompt.columns),
            "bias_correction": self.bias_correction,
            "rationale": self.rationale,
            "control_rows": self.control_rows,
        }


def correction_of(given: str | None, kind: ScaleKind) -> BiasCorrection:
    """The correction that was asked for, or the default of the kind of scale.

    Raises:
        InvalidInputError: There is no such correction.
    """
    if given is None:
        return _DEFAULT_CORRECTION[kind]
    known: Sequence[BiasCorrection] = get_args(BiasCorrection)
    for correction in known:
        if given == correction:
            return correction
    raise InvalidInputError(
        f"bias_correction must be one of {', '.join(known)}, got {given!r}.{did_you_mean(given, known)}"
    )
