"""The metrics that a model type gets where the user names none; those of MLflow's own types are MLflow's."""

from __future__ import annotations

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.lookup import did_you_mean

_READABILITY = ("ari_grade_level", "flesch_kincaid_grade_level")
_ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")

MODEL_TYPES: dict[str, tuple[str, ...]] = {
    "text": _READABILITY,
    "question-answering": (*_READABILITY, "exact_match", "token_f1"),
    "text-summarization": (*_READABILITY, *_ROUGE, "perplexity"),
    "llm": (*_READABILITY, "repetition_rate", "token_f1", "rougeL", "chrf"),
    "chat": (*_READABILITY, "repetition_rate", "is_refusal", "token_f1", "rougeL", "chrf"),
}


def default_metrics(model_type: str | None) -> tuple[str, ...]:
    """Names of the metrics; those that the data or the model do not allow are left out by the caller.

    Raises:
        InvalidInputError: The evaluator has no metrics for this type.
    """
    if model_type is None:
        return ()
    if model_type not in MODEL_TYPES:
        raise InvalidInputError(
            f"The evaluator 'llm' cannot evaluate model_type={model_type!r}.{did_you_mean(model_type, MODEL_TYPES)} "
            f"It knows {', '.join(MODEL_TYPES)}; for other models use evaluators='default'."
        )
    return MODEL_TYPES[model_type]
