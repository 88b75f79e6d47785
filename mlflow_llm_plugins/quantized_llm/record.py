"""The flavor's section of MLmodel: what was saved, typed, with a format version."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from typing_extensions import Self

from mlflow_llm_plugins.errors import CheckpointError

FLAVOR_NAME = "quantized_llm"
FORMAT_VERSION = 2  # the newest that is read; a model is written with the oldest that can hold it
OPENVINO_FORMAT_VERSION = 2
MODEL_FOLDER = "model"  # config, tokenizer and weights, as transformers lays them out

_CONFIG_PARAMS = ("group_size", "symmetric", "ratio")  # settings of OpenVINO's methods that are params, too

Applied = Literal["when saved", "when loaded"]
WeightsFormat = Literal["safetensors", "openvino"]
Task = Literal["llm/v1/chat", "llm/v1/completions"]


class _Section(BaseModel):
    """Frozen; keys that a later release of the same format version adds are left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class WeightsRecord(_Section):
    """Where the weights are, and for which kind of engine."""

    format: WeightsFormat = "safetensors"
    location: Literal["artifact", "hub", "path"]
    source: str = MODEL_FOLDER  # a folder of the artifact, a Hub id, or an absolute path
    commit: str | None = None  # of the Hub repository


class QuantizationRecord(_Section):
    """How the weights are quantized, or will be when they are loaded."""

    method: str  # a name of the table of methods, or transformers' quant_method, for example "gptq"
    bits: int | None = None
    quant_type: str | None = None
    compute_dtype: str | None = None
    double_quant: bool | None = None
    applied: Applied
    config: dict[str, Any]  # transformers' quantization config, or an OpenVINO recipe, complete


class ExportRecord(_Section):
    """How an OpenVINO model was made of a checkpoint, and what its proof showed."""

    seconds: float
    traced_dtype: str  # in which the weights were traced
    probe: dict[str, bool | int | float | None] = {}


class FlavorRecord(_Section):
    """What an artifact of this flavor says about itself."""

    format_version: int = 1
    task: Task
    weights: WeightsRecord
    quantization: QuantizationRecord | None = None
    quantization_reason: str | None = None  # why "auto" chose that
    dtype: str | None = None  # of the weights that are not quantized
    parameters: int | None = None  # logical: packed and tied weights counted once each
    weight_bytes: int | None = None  # of the files that hold them
    export: ExportRecord | None = None  # of an OpenVINO model that was exported when it was logged
    architecture: str | None = None
    base_model: str | None = None  # a Hub id or a path
    base_commit: str | None = None
    license: str | None = None
    trust_remote_code: bool = False
    chat_template_sha256: str | None = None
    prompt_template: str | None = None
    generation_config: dict[str, Any] | None = None  # request defaults that were given when it was logged
    library_versions: dict[str, str] = {}
    code: str | None = None  # MLflow's folder of code_paths

    @classmethod
    def parse(cls, section: Mapping[str, Any]) -> Self:
        """Read the section of an MLmodel file.

        Raises:
            CheckpointError: It was written by a newer release, or is damaged.
        """
        version = section.get("format_version")
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise CheckpointError(
                f"This artifact has format_version {version}; the installed mlflow-llm-plugins reads up to "
                f"{FORMAT_VERSION}. Upgrade it: pip install -U mlflow-llm-plugins"
            )
        try:
            return cls.model_validate(dict(section))
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
                for problem in error.errors(include_url=False)
            )
            raise CheckpointError(f"The quantized_llm section of MLmodel is damaged: {problems}.") from error

    @property
    def model_name(self) -> str:
        """What answers call the model: the Hub id, or the last part of a path, which is nobody's business."""
        name = self.base_model or FLAVOR_NAME
        return Path(name).name if Path(name).is_absolute() else name

    def for_mlmodel(self) -> dict[str, Any]:
        """The section as plain YAML values."""
        return self.model_dump(mode="json")

    def as_params(self) -> dict[str, str]:
        """The facts to search logged models by, as MLflow's params: `llm.*`, strings, only what is known."""
        quantization = self.quantization
        facts: dict[str, Any] = {
            "quantization": quantization.method if quantization else "none",
            "quantization_applied": quantization.applied if quantization else None,
            "quantization_reason": self.quantization_reason,
            "bits": quantization.bits if quantization else None,
            "quant_type": quantization.quant_type if quantization else None,
            "compute_dtype": quantization.compute_dtype if quantization else None,
            "double_quant": quantization.double_quant if quantization else None,
            **{name: quantization.config.get(name) if quantization else None for name in _CONFIG_PARAMS},
            "dtype": self.dtype,
            "parameters": self.parameters,
            "weight_bytes": self.weight_bytes,
            "weights": self.weights.location,
            "weights_format": self.weights.format,
            "architecture": self.architecture,
            "base_model": self.base_model,
            "base_commit": self.base_commit,
            "license": self.license,
            "task": self.task,
            "trust_remote_code": self.trust_remote_code,
            "chat_template_sha256": self.chat_template_sha256,
            "format_version": self.format_version,
        }
        if self.export:
            facts |= {f"export.{name}": value for name, value in self.export.probe.items()}
        versions = {f"version.{name}": version for name, version in self.library_versions.items()}
        return {f"llm.{key}": str(value) for key, value in {**facts, **versions}.items() if value is not None}
