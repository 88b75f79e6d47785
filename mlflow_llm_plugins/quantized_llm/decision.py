"""Which engine runs an artifact, and with which quantization, where that was left open or to "auto"."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from mlflow_llm_plugins.errors import CheckpointError, UnsupportedFeatureError
from mlflow_llm_plugins.generation.engines import DEFAULT_ENGINE, ModelFormat, engine_row
from mlflow_llm_plugins.quantized_llm import auto
from mlflow_llm_plugins.quantized_llm.artifact import Artifact
from mlflow_llm_plugins.quantized_llm.checkpoint import CONFIG_FILE
from mlflow_llm_plugins.quantized_llm.config import ModelConfig
from mlflow_llm_plugins.quantized_llm.openvino_model import export
from mlflow_llm_plugins.quantized_llm.quantization import AUTO, Quantization, parse_quantization
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


def decide(artifact: Artifact, config: ModelConfig, *, trust_remote_code: bool = False) -> Decision:
    """Settle engine and quantization; what "auto" chose is told, and noted on the active run.

    Where "auto" chose an export, it is made now, into the cache: one that fails is a reason to choose again.

    Args:
        artifact: What will be loaded.
        config: Its configuration, with what overrides it.
        trust_remote_code: Whether Python code that came with the model may run; where it may not, nothing is exported.

    Raises:
        LLMError: The engine that was named cannot run the model, or an export failed for want of a package or memory.
    """
    decision = _choose(artifact, config, None)
    may_run = trust_remote_code or not artifact.record.trust_remote_code
    if decision.model_format == "openvino" and may_run and _was_left_open(artifact, config):
        artifact.check_trust(trust_remote_code)
        try:
            export(artifact, decision.config, trust_remote_code=trust_remote_code)
        except UnsupportedFeatureError as error:
            return _choose(artifact, config, str(error).rstrip("."))
    return decision


def _choose(artifact: Artifact, config: ModelConfig, why_not_openvino: str | None) -> Decision:
    config = _with_quantization(artifact, config, why_not_openvino)
    engine = config.engine or _engine_of_weights(artifact, config)
    if engine == AUTO:
        engine = _chosen_engine(artifact, config, why_not_openvino)
    return Decision(engine, config)


def _was_left_open(artifact: Artifact, config: ModelConfig) -> bool:
    """Whether an export would be the choice of "auto", so that another one may take its place."""
    if _is_settled(artifact) or auto.is_named(config.engine):
        return False
    wanted = _wanted(artifact, config)
    if wanted is None or wanted.is_none:
        return config.engine == AUTO
    return wanted.is_auto or _was_chosen_when_logged(artifact, config)


def _was_chosen_when_logged(artifact: Artifact, config: ModelConfig) -> bool:
    return config.quantization is None and artifact.record.quantization_reason is not None


def _wanted(artifact: Artifact, config: ModelConfig) -> Quantization | None:
    return parse_quantization(config.quantization) or artifact.recorded_quantization()


def _with_quantization(artifact: Artifact, config: ModelConfig, why_not_openvino: str | None) -> ModelConfig:
    wanted = _wanted(artifact, config)
    failed = wanted is not None and wanted.is_openvino and why_not_openvino is not None
    if wanted is None or not (wanted.is_auto or failed):
        return config
    if _is_settled(artifact):
        return config.without("quantization")
    choice = auto.choose_quantization(_situation(artifact, config.engine, why_not_openvino))
    auto.tell("quantization", choice)
    return config.overridden(quantization=choice.value)


def _engine_of_weights(artifact: Artifact, config: ModelConfig) -> str:
    """Without a word on the engine: OpenVINO for its own models and methods."""
    wanted = _wanted(artifact, config)
    if artifact.record.weights.format == "openvino" or (wanted is not None and wanted.is_openvino):
        return "openvino"
    return DEFAULT_ENGINE


def _chosen_engine(artifact: Artifact, config: ModelConfig, why_not_openvino: str | None) -> str:
    settled = _engine_of_weights(artifact, config)
    wanted = _wanted(artifact, config)
    if settled == "openvino":
        choice = auto.Choice(settled, "the weights are or become an OpenVINO model")
    elif _is_settled(artifact) or (wanted is not None and not wanted.is_none):
        choice = auto.Choice(settled, "the weights are quantized for torch")
    else:
        choice = auto.choose_engine(_situation(artifact, config.engine, why_not_openvino))
    auto.tell("engine", choice)
    return choice.value


def _situation(artifact: Artifact, engine: str | None, why_not_openvino: str | None) -> auto.Situation:
    record = artifact.record
    return auto.Situation.of(
        _model_config(artifact),
        record.parameters,
        weight_bytes=record.weight_bytes,
        engine=engine,
        why_not_openvino=why_not_openvino,
    )


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
