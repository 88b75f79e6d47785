"""An artifact of this flavor on disk, and the model in it."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_llm_plugins.errors import CheckpointError, UnsupportedFeatureError
from mlflow_llm_plugins.openai_api.decisions import read_temperatures
from mlflow_llm_plugins.quantized_llm import hub
from mlflow_llm_plugins.quantized_llm.checkpoint import (
    GENERATION_CONFIG_FILE,
    Checkpoint,
    read_config,
    read_generation_config,
)
from mlflow_llm_plugins.quantized_llm.config import ModelConfig
from mlflow_llm_plugins.quantized_llm.quantization import (
    Quantization,
    check_environment,
    of_checkpoint,
    parse_quantization,
    still_to_apply,
)
from mlflow_llm_plugins.quantized_llm.record import FLAVOR_NAME, MODEL_FOLDER, FlavorRecord
from mlflow_llm_plugins.quantized_llm.requirements import require_engine_packages
from mlflow_llm_plugins.quantized_llm.tokenizer import load_tokenizer
from mlflow_llm_plugins.quantized_llm.weights import Placement, dequantize, load_weights

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

_logger = logging.getLogger(__name__)

CODE_SWITCH = "MLFLOW_ALLOW_MODEL_CODE_EXECUTION"  # MLflow's, since 3.18


@dataclass(frozen=True, slots=True)
class Components:
    """A loaded model."""

    model: Any
    tokenizer: Any


@dataclass(frozen=True, slots=True)
class Artifact:
    """A folder with an MLmodel file that has a section of this flavor."""

    path: Path
    record: FlavorRecord
    config: ModelConfig  # as it was logged
    signature: ModelSignature | None

    @classmethod
    def open(cls, path: Path) -> Artifact:
        """Read what the artifact says about itself.

        Raises:
            CheckpointError: It is not of this flavor, is damaged, or was written by a newer release.
        """
        from mlflow import pyfunc
        from mlflow.models import Model

        model = Model.load(str(path))
        flavors: Mapping[str, Mapping[str, Any]] = model.flavors
        if FLAVOR_NAME not in flavors:
            raise CheckpointError(
                f"{path} has no {FLAVOR_NAME!r} flavor, only {', '.join(flavors)}. "
                "Load it with the flavor that logged it."
            )
        config = flavors.get(pyfunc.FLAVOR_NAME, {}).get(pyfunc.MODEL_CONFIG)
        record = FlavorRecord.parse(flavors[FLAVOR_NAME])
        return cls(path, record, ModelConfig.from_artifact(config), model.signature)

    @property
    def generation_config(self) -> dict[str, Any]:
        """Request defaults, in transformers' words: the model's own with those given when it was logged."""
        return read_generation_config(self.path / MODEL_FOLDER)

    @property
    def decision_temperatures(self) -> dict[str, float]:
        """What the checkpoint's typed decisions were calibrated with."""
        return read_temperatures(self.path / MODEL_FOLDER)

    def load(self, config: ModelConfig, *, trust_remote_code: bool) -> Components:
        """Load tokenizer and weights.

        Args:
            config: The artifact's own, with what overrides it.
            trust_remote_code: Whether Python code that came with the model may run.

        Raises:
            LLMError: The weights cannot be had, or not be quantized as asked for, or the code is not trusted.
        """
        require_engine_packages()
        self._check_trust(trust_remote_code)
        folder = self.path / MODEL_FOLDER
        stored = of_checkpoint(read_config(folder))
        wanted = parse_quantization(config.quantization) or self._quantization_at_load()
        expand = stored if wanted and wanted.is_none else None
        to_apply = None if expand else still_to_apply(wanted, stored)
        if runs := to_apply or stored:
            check_environment(runs, pre_quantized=to_apply is None, device_map=config.device_map)
        tokenizer = load_tokenizer(folder, name=str(folder), trust_remote_code=trust_remote_code)
        if stored and not expand:
            config = self._with_stored_dtype(config, stored)
        model = self._load_weights(config, to_apply, trust_remote_code)
        if expand:
            _logger.warning("Expanding %s weights: they take more memory and keep its rounding.", expand.method)
            model = dequantize(model, config.dtype)
        return Components(model, tokenizer)

    def _load_weights(self, config: ModelConfig, to_apply: Quantization | None, trust_remote_code: bool) -> Any:
        checkpoint = self._open_checkpoint()
        dtype = config.dtype or self.record.dtype or checkpoint.dtype
        placement = Placement(
            device_map=config.device_map,
            dtype=dtype,
            attn_implementation=config.attn_implementation,
            max_memory=config.max_memory,
        )
        model = load_weights(checkpoint, placement, to_apply and to_apply.for_dtype(dtype), trust_remote_code)
        defaults = self.path / MODEL_FOLDER / GENERATION_CONFIG_FILE
        if self.record.weights.location != "artifact" and defaults.is_file():
            from transformers import GenerationConfig

            model.generation_config = GenerationConfig.from_pretrained(defaults.parent)
        return model

    def _with_stored_dtype(self, config: ModelConfig, stored: Quantization) -> ModelConfig:
        """Keep the type that quantized weights were saved with: some releases of transformers convert the others."""
        if config.dtype and self.record.dtype and config.dtype != self.record.dtype:
            _logger.warning(
                "dtype=%r has no effect: the weights were saved quantized with %s beside %s, and stay so. Log the "
                "model with that dtype in engine_config, or expand it with quantization='none'.",
                config.dtype,
                stored.method,
                self.record.dtype,
            )
            return config.without("dtype")
        return config

    def _quantization_at_load(self) -> Quantization | None:
        recorded = self.record.quantization
        if recorded is None or recorded.applied == "when saved":
            return None
        return Quantization(recorded.method, recorded.config)

    def _open_checkpoint(self) -> Checkpoint:
        weights = self.record.weights
        if weights.location == "artifact":
            return Checkpoint.open(self.path / weights.source)
        if weights.location == "hub":
            return hub.open_checkpoint(weights.source, weights.commit, code=self.record.trust_remote_code)
        if not Path(weights.source).is_dir():
            raise CheckpointError(
                f"The artifact refers to weights in {weights.source}, which does not exist on this machine. "
                "Put them there, or log the model again with save_pretrained=True."
            )
        return Checkpoint.open(Path(weights.source))

    def _check_trust(self, trust_remote_code: bool) -> None:
        if not self.record.trust_remote_code:
            return
        name = self.record.base_model or self.path
        if os.environ.get(CODE_SWITCH, "true").lower() in ("false", "0"):
            raise UnsupportedFeatureError(
                f"{name} runs Python code of its own, which {CODE_SWITCH} forbids. Set it to true if you have read "
                "that code."
            )
        if not trust_remote_code:
            raise UnsupportedFeatureError(
                f"{name} runs Python code of its own and was logged with trust_remote_code=True. If you have read "
                "that code, load it with trust_remote_code=True."
            )
