"""The torch model of an artifact, loaded by transformers."""

from __future__ import annotations

import logging
from typing import Any

from mlflow_llm_plugins.errors import UnsupportedFeatureError
from mlflow_llm_plugins.generation.engines import ENGINES
from mlflow_llm_plugins.quantized_llm.artifact import Artifact
from mlflow_llm_plugins.quantized_llm.checkpoint import GENERATION_CONFIG_FILE, Checkpoint, read_config
from mlflow_llm_plugins.quantized_llm.components import Components
from mlflow_llm_plugins.quantized_llm.config import ModelConfig
from mlflow_llm_plugins.quantized_llm.quantization import (
    Quantization,
    check_environment,
    of_checkpoint,
    parse_quantization,
    still_to_apply,
)
from mlflow_llm_plugins.quantized_llm.record import MODEL_FOLDER
from mlflow_llm_plugins.quantized_llm.tokenizer import load_tokenizer
from mlflow_llm_plugins.quantized_llm.weights import Placement, dequantize, load_weights

_logger = logging.getLogger(__name__)


def load_torch(artifact: Artifact, config: ModelConfig, *, trust_remote_code: bool) -> Components:
    """Load tokenizer and weights as transformers objects.

    Args:
        artifact: Where they are.
        config: The artifact's own, with what overrides it.
        trust_remote_code: Whether Python code that came with the model may run.

    Raises:
        LLMError: The weights cannot be had, or not be quantized as asked for, or the code is not trusted.
    """
    ENGINES["transformers"].require_packages("The quantized_llm flavor")
    artifact.check_trust(trust_remote_code)
    _refuse_openvino(artifact)
    folder = artifact.path / MODEL_FOLDER
    stored = of_checkpoint(read_config(folder))
    wanted = parse_quantization(config.quantization) or artifact.recorded_quantization()
    _refuse_method_of_openvino(wanted, config.engine)
    expand = stored if wanted and wanted.is_none else None
    to_apply = None if expand else still_to_apply(wanted, stored)
    if runs := to_apply or stored:
        check_environment(runs, pre_quantized=to_apply is None, device_map=config.device_map)
    tokenizer = load_tokenizer(folder, name=str(folder), trust_remote_code=trust_remote_code)
    if stored and not expand:
        config = _with_stored_dtype(artifact, config, stored)
    model = _load_weights(artifact, config, to_apply, trust_remote_code)
    if expand:
        _logger.warning("Expanding %s weights: they take more memory and keep its rounding.", expand.method)
        model = dequantize(model, config.dtype)
    return Components(model, tokenizer)


def _refuse_openvino(artifact: Artifact) -> None:
    if artifact.record.weights.format == "openvino":
        raise UnsupportedFeatureError(
            "The artifact holds an OpenVINO model, which runs on the engine 'openvino' alone. Leave engine out, or "
            "log the original model."
        )


def _refuse_method_of_openvino(wanted: Quantization | None, engine: str | None) -> None:
    if wanted is not None and wanted.is_openvino:
        raise UnsupportedFeatureError(
            f"quantization={wanted.method!r} makes an OpenVINO model, which the engine {engine!r} does not run. Leave "
            "engine out, or set it to 'openvino'."
        )


def _load_weights(
    artifact: Artifact, config: ModelConfig, to_apply: Quantization | None, trust_remote_code: bool
) -> Any:
    checkpoint = Checkpoint.open(artifact.weights_folder())
    dtype = config.dtype or artifact.record.dtype or checkpoint.dtype
    placement = Placement(
        device_map=config.device_map,
        dtype=dtype,
        attn_implementation=config.attn_implementation,
        max_memory=config.max_memory,
    )
    model = load_weights(checkpoint, placement, to_apply and to_apply.for_dtype(dtype), trust_remote_code)
    defaults = artifact.path / MODEL_FOLDER / GENERATION_CONFIG_FILE
    if artifact.record.weights.location != "artifact" and defaults.is_file():
        from transformers import GenerationConfig

        model.generation_config = GenerationConfig.from_pretrained(defaults.parent)
    return model


def _with_stored_dtype(artifact: Artifact, config: ModelConfig, stored: Quantization) -> ModelConfig:
    """Keep the type that quantized weights were saved with: some releases of transformers convert the others."""
    saved = artifact.record.dtype
    if config.dtype and saved and config.dtype != saved:
        _logger.warning(
            "dtype=%r has no effect: the weights were saved quantized with %s beside %s, and stay so. Log the "
            "model with that dtype in engine_config, or expand it with quantization='none'.",
            config.dtype,
            stored.method,
            saved,
        )
        return config.without("dtype")
    return config
