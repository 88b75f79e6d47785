"""An artifact of this flavor on disk: what it says about itself, and where its weights are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_llm_plugins.errors import CheckpointError, UnsupportedFeatureError
from mlflow_llm_plugins.openai_api.decisions import read_temperatures
from mlflow_llm_plugins.quantized_llm import hub
from mlflow_llm_plugins.quantized_llm.checkpoint import read_generation_config
from mlflow_llm_plugins.quantized_llm.config import ModelConfig
from mlflow_llm_plugins.quantized_llm.quantization import Quantization
from mlflow_llm_plugins.quantized_llm.record import FLAVOR_NAME, MODEL_FOLDER, FlavorRecord

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

CODE_SWITCH = "MLFLOW_ALLOW_MODEL_CODE_EXECUTION"  # MLflow's, since 3.18


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

    def recorded_quantization(self) -> Quantization | None:
        """What is to be applied at each load; None where nothing is, or it was when the model was saved."""
        recorded = self.record.quantization
        if recorded is None or recorded.applied == "when saved":
            return None
        return Quantization(recorded.method, recorded.config)

    def weights_folder(self) -> Path:
        """The folder with the weights, on this machine.

        Raises:
            CheckpointError: They were on a machine that is not this one.
        """
        weights = self.record.weights
        if weights.location == "artifact":
            return self.path / weights.source
        if weights.location == "hub":
            return hub.open_checkpoint(weights.source, weights.commit, code=self.record.trust_remote_code).folder
        if not Path(weights.source).is_dir():
            raise CheckpointError(
                f"The artifact refers to weights in {weights.source}, which does not exist on this machine. "
                "Put them there, or log the model again with save_pretrained=True."
            )
        return Path(weights.source)

    def check_trust(self, trust_remote_code: bool) -> None:
        """Refuse to run the model's own Python code unless that was allowed.

        Raises:
            UnsupportedFeatureError: With what to do.
        """
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
