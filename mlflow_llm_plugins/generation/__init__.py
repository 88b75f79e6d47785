"""Engines: requests in, tokens or log-probabilities out. Knows torch and transformers, never mlflow.

To add an engine: a file, and a row in `engines.ENGINES`.
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
from mlflow_llm_plugins.generation.engines import DEFAULT_ENGINE, ENGINES, engine_row
from mlflow_llm_plugins.generation.requests import Constraint, GenerationOutput, GenerationRequest, TokenEvent
from mlflow_llm_plugins.generation.settings import EngineSettings
from mlflow_llm_plugins.lookup import resolve

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
        model: What the engine takes: a causal `PreTrainedModel` on its device, or the folder of an OpenVINO IR.
        tokenizer: Its tokenizer.
        settings: None takes the defaults.
        engine: A key of `ENGINES` or "package.module:function"; None takes `DEFAULT_ENGINE`.

    Raises:
        InvalidInputError: No such engine, or a model that is not a causal language model.
    """
    openers = {name: row.opener for name, row in ENGINES.items()}
    opener = resolve(engine or DEFAULT_ENGINE, openers, "engine")
    settings = settings or EngineSettings()
    engine_row(engine).warn_of_unused(settings)
    opened: GenerationEngine = opener(model, tokenizer, settings)
    return opened
