"""Which engine runs an artifact, and with which quantization, where that was left open or to "auto"."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from mlflow_llm_plugins.errors import CheckpointError
from mlflow_llm_plugins.generation.engines import DEFAULT_ENGINE, ModelFormat, engine_row
from mlflow_llm_plugins.quantized_llm import auto
from mlflow_llm_plugins.quantized_llm.artifact import Artifact
from mlflow_llm_plugins.quantized_llm.checkpoint import CONFIG_FILE
from mlflow_llm_plugins.quantized_llm.config import ModelConfig
from mlflow_llm_plugins.quantized_llm.quantization import AUTO, parse_quantization
from mlflow_llm_plugins.quantized_llm.record import MODEL_FOLDER


@dataclass(frozen=True, slots=True)
class Decision:
    """What runs."""

    engine: str
    config: ModelConfig  # nothing in it is "auto" any more

    @property
    def model_format(self) -> ModelFormat:
        """What the engine takes."""
        return engine_row(self.engine).model_format


def decide(artifact: Artifact, config: ModelConfig) -> Decision:
    """Settle engine and quantization; what "auto" chose is told, and noted on the active run.

    Args:
        artifact: What will be loaded.
        config: Its configuration, with what overrides it.
    """
    config = _with_quantization(artifact, config)
    engine = config.engine or _engine_of_weights(artifact, config)
    if engine == AUTO:
        engine = _chosen_engine(artifact, config)
    return Decision(engine, config)


def _with_quantization(artifact: Artifact, config: ModelConfig) -> ModelConfig:
    wanted = parse_quantization(config.quantization) or artifact.recorded_quantization()
    if wanted is None or not wanted.is_auto:
        return config
    if _is_settled(artifact):
        return config.without("quantization")
    why_not = None
    if config.engine not in (None, AUTO) and engine_row(config.engine).model_format != "openvino":
        why_not = f"the engine is {config.engine!r}"
    situation = auto.Situation.of(_model_config(artifact), artifact.record.parameters, why_not)
    choice = auto.choose_quantization(situation)
    auto.tell("quantization", choice)
    return config.overridden(quantization=choice.value)


def _engine_of_weights(artifact: Artifact, config: ModelConfig) -> str:
    """Without a word on the engine: OpenVINO for its own models and methods."""
    wanted = parse_quantization(config.quantization) or artifact.recorded_quantization()
    if artifact.record.weights.format == "openvino" or (wanted is not None and wanted.is_openvino):
        return "openvino"
    return DEFAULT_ENGINE


def _chosen_engine(artifact: Artifact, config: ModelConfig) -> str:
    settled = _engine_of_weights(artifact, config)
    wanted = parse_quantization(config.quantization) or artifact.recorded_quantization()
    if settled == "openvino":
        choice = auto.Choice(settled, "the weights are or become an OpenVINO model")
    elif _is_settled(artifact) or (wanted is not None and not wanted.is_none):
        choice = auto.Choice(settled, "the weights are quantized for torch")
    else:
        situation = auto.Situation.of(_model_config(artifact), artifact.record.parameters)
        choice = auto.choose_engine(situation)
    auto.tell("engine", choice)
    return choice.value


def _is_settled(artifact: Artifact) -> bool:
    """Whether the weights are stored in a form that stays as it is."""
    recorded = artifact.record.quantization
    return artifact.record.weights.format == "openvino" or (recorded is not None and recorded.applied == "when saved")


def _model_config(artifact: Artifact) -> dict[str, Any]:
    file = artifact.path / MODEL_FOLDER / CONFIG_FILE
    try:
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}. Copy or download the artifact again.") from error
    return config
