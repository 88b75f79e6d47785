"""Engines: requests in, tokens or log-probabilities out. Knows torch and transformers, never mlflow.

To add an engine: a file that has a function `open(model, tokenizer, settings) -> GenerationEngine`, and a
row in `ENGINES`.
"""

from __future__ import annotations

from typing import Any

from mlflow_llm_plugins.generation.engine import (
    ChoiceScores,
    EngineStats,
    GenerationEngine,
    GenerationStream,
    TokenScores,
)
from mlflow_llm_plugins.generation.requests import Constraint, GenerationOutput, GenerationRequest, TokenEvent
from mlflow_llm_plugins.generation.settings import EngineSettings
from mlflow_llm_plugins.lookup import resolve

_TRANSFORMERS = "mlflow_llm_plugins.generation.transformers_engine"
ENGINES = {
    "transformers": f"{_TRANSFORMERS}:open_continuous",  # continuous batching; "generate" where it is not right
    "generate": f"{_TRANSFORMERS}:open_padded",  # padded batches, for any causal model
}
DEFAULT_ENGINE = "transformers"

__all__ = [
    "DEFAULT_ENGINE",
    "ENGINES",
    "ChoiceScores",
    "Constraint",
    "EngineSettings",
    "EngineStats",
    "GenerationEngine",
    "GenerationOutput",
    "GenerationRequest",
    "GenerationStream",
    "TokenEvent",
    "TokenScores",
    "open_engine",
]


def open_engine(
    model: Any, tokenizer: Any, settings: EngineSettings | None = None, engine: str | None = None
) -> GenerationEngine:
    """Start an engine on a loaded model; the engine owns the model from here on.

    Args:
        model: A causal `PreTrainedModel`, on its device.
        tokenizer: Its tokenizer.
        settings: None takes the defaults.
        engine: A key of `ENGINES` or "package.module:function"; None takes `DEFAULT_ENGINE`.

    Raises:
        InvalidInputError: No such engine, or a model that is not a causal language model.
    """
    opener = resolve(engine or DEFAULT_ENGINE, ENGINES, "engine")
    opened: GenerationEngine = opener(model, tokenizer, settings or EngineSettings())
    return opened
