"""A folder that has an OpenVINO model already, from another exporter."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import Self

from mlflow_llm_plugins.generation.openvino.ir_files import WEIGHTS_FILE
from mlflow_llm_plugins.quantized_llm.checkpoint import has_weights
from mlflow_llm_plugins.quantized_llm.openvino_recipes import OPENVINO_CONFIGS, QUANT_METHOD
from mlflow_llm_plugins.quantized_llm.quantization import Quantization

_logger = logging.getLogger(__name__)

_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class OpenVINOFolder:
    """What its model says about itself."""

    weight_format: str  # "int8", "int4", "fp16", "bf16", "fp32", or nncf's name of another
    symmetric: bool | None
    group_size: int | None
    weight_bytes: int

    @classmethod
    def find(cls, folder: Path) -> Self | None:
        """Describe the folder's model; None where it has none, or safetensors too, which go first, with a warning.

        Raises:
            CheckpointError: It is no language model that can be served, or damaged.
        """
        from mlflow_llm_plugins.quantized_llm.openvino_export.existing import describe, is_openvino_folder

        if not is_openvino_folder(folder):
            return None
        if has_weights(folder):
            _warn_of_both(folder)
            return None
        found = describe(folder)
        size = (folder / WEIGHTS_FILE).stat().st_size
        return cls(found.weight_format, found.symmetric, found.group_size, size)

    @property
    def dtype(self) -> str:
        """Type of the weights that are not quantized, as far as it is known."""
        return _DTYPES.get(self.weight_format, "float32")

    @property
    def quantization(self) -> Quantization | None:
        """How it is quantized, in the words of the table of methods or with nncf's name; None where it is not."""
        method = f"openvino-{self.weight_format}"
        if method not in OPENVINO_CONFIGS and self.weight_format in _DTYPES:
            return None
        settings = {"symmetric": self.symmetric, "group_size": self.group_size}
        known = {name: value for name, value in settings.items() if value is not None}
        return Quantization(method, {"quant_method": QUANT_METHOD, "weight_format": self.weight_format, **known})


def _warn_of_both(folder: Path) -> None:
    _logger.warning(
        "%s has safetensors and an OpenVINO model: the safetensors are taken. To log the OpenVINO model, give a "
        "directory with it, config.json and the tokenizer's files, without safetensors.",
        folder,
    )
