"""The OpenVINO model of an artifact: the one that was logged, or one that is exported now, once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from mlflow_llm_plugins.errors import CheckpointError, UnsupportedFeatureError
from mlflow_llm_plugins.generation.engines import ENGINES
from mlflow_llm_plugins.quantized_llm.artifact import Artifact
from mlflow_llm_plugins.quantized_llm.components import Components
from mlflow_llm_plugins.quantized_llm.config import ModelConfig
from mlflow_llm_plugins.quantized_llm.export_cache import exported
from mlflow_llm_plugins.quantized_llm.file_tokenizer import load_file_tokenizer
from mlflow_llm_plugins.quantized_llm.openvino_recipes import EXPORTED_FILES, complete
from mlflow_llm_plugins.quantized_llm.quantization import NONE, Quantization, other_settings, parse_quantization

_logger = logging.getLogger(__name__)

_OF_TORCH = ("device_map", "attn_implementation", "max_memory")  # settings that have no meaning here
_OF_WEIGHTS = ("dtype",)  # nor this one, once a model is exported


def load_openvino(artifact: Artifact, config: ModelConfig, *, trust_remote_code: bool) -> Components:
    """The folder of the artifact's OpenVINO model, and a tokenizer; loads neither torch nor transformers.

    An artifact of ordinary weights is exported into a cache on this machine, the first time; that needs both.

    Args:
        artifact: Where model or weights are.
        config: The artifact's own, with what overrides it.
        trust_remote_code: Whether Python code that came with ordinary weights may run while they are exported.

    Raises:
        LLMError: The packages are missing, the model cannot be exported, or is quantized in another way.
    """
    ENGINES["openvino"].require_packages("The engine 'openvino'")
    is_stored = artifact.record.weights.format == "openvino"
    _warn_of_settings(config, _OF_TORCH + _OF_WEIGHTS if is_stored else _OF_TORCH)
    wanted = parse_quantization(config.quantization)
    folder = _stored(artifact, wanted) if is_stored else export(artifact, config, trust_remote_code=trust_remote_code)
    return Components(folder, load_file_tokenizer(folder, name=str(folder)))


def export(artifact: Artifact, config: ModelConfig, *, trust_remote_code: bool) -> Path:
    """The folder of an artifact's ordinary weights as an OpenVINO model; arguments and errors as `load_openvino`."""
    artifact.check_trust(trust_remote_code)
    to_apply = _to_apply(artifact, parse_quantization(config.quantization))
    return exported(artifact, to_apply, config.dtype, trust_remote_code)


def _warn_of_settings(config: ModelConfig, names: Sequence[str]) -> None:
    if given := [name for name in names if getattr(config, name) is not None]:
        _logger.warning("%s: no effect on an OpenVINO model.", ", ".join(given))


def _stored(artifact: Artifact, wanted: Quantization | None) -> Path:
    recorded = artifact.record.quantization
    has = recorded.method if recorded else NONE
    if wanted is not None and wanted.method != has:
        raise UnsupportedFeatureError(
            f"quantization={wanted.method!r}, but the artifact holds an OpenVINO model with quantization {has!r}, "
            "which stays as it is. Leave quantization out, or log the original model with that quantization."
        )
    if wanted is not None and recorded and (other := other_settings(wanted, recorded.config)):
        raise UnsupportedFeatureError(
            f"quantization={wanted.method!r} with {other[0]}, but the artifact holds an OpenVINO model with "
            f"{other[1]}, which stays as it is. Leave quantization out, or log the original model with that "
            "quantization."
        )
    folder = artifact.weights_folder()
    if missing := [name for name in EXPORTED_FILES if not (folder / name).is_file()]:
        raise CheckpointError(f"{folder} is damaged: it has no {missing[0]}. Copy or download it again.")
    return folder


def _to_apply(artifact: Artifact, wanted: Quantization | None) -> Quantization | None:
    """How the weights are stored in the export; None: as they are."""
    recorded = artifact.record.quantization
    chosen = wanted or artifact.recorded_quantization()
    if recorded and recorded.applied == "when saved":
        raise UnsupportedFeatureError(
            f"The engine 'openvino' exports weights that are not quantized, and these were saved with "
            f"{recorded.method!r}. Leave engine out, or log the original model with quantization='openvino-int8'."
        )
    if chosen is None or chosen.is_none:
        return None
    if not chosen.is_openvino:
        raise UnsupportedFeatureError(
            f"quantization={chosen.method!r} is of torch, and the engine 'openvino' runs 'none', 'openvino-fp16', "
            "'openvino-int8' or 'openvino-int4'. Choose one of these, or leave engine out."
        )
    return Quantization(*complete(chosen.config))
