"""The quantization methods that make an OpenVINO model, in the words of `quantization`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from mlflow_llm_plugins.errors import MissingDependencyError
from mlflow_llm_plugins.generation.openvino.ir_files import CONFIG_FILE, MODEL_FILES
from mlflow_llm_plugins.lookup import is_importable
from mlflow_llm_plugins.quantized_llm.openvino_export.recipe import OpenVINORecipe

QUANT_METHOD = "openvino"
OPENVINO_CONFIGS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "openvino-fp16": {"quant_method": QUANT_METHOD, "weight_format": "fp16"},
        "openvino-int8": {"quant_method": QUANT_METHOD, "weight_format": "int8"},
        "openvino-int4": {"quant_method": QUANT_METHOD, "weight_format": "int4"},
    }
)
EXPORT_PACKAGES = ("openvino", "openvino_tokenizers", "nncf", "torch", "transformers")
EXPORTED_FILES = (*MODEL_FILES, CONFIG_FILE)  # at least
_BITS = {"fp16": 16, "int8": 8, "int4": 4}


def is_openvino(config: Mapping[str, Any]) -> bool:
    """Whether a quantization config is one of these."""
    return config.get("quant_method") == QUANT_METHOD


def recipe_of(config: Mapping[str, Any]) -> OpenVINORecipe:
    """The recipe of a quantization config.

    Raises:
        InvalidInputError: An unknown setting, or one that does not belong to the method.
    """
    return OpenVINORecipe.parse({key: value for key, value in config.items() if key != "quant_method"}, "quantization")


def complete(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name of the method, and its config with every setting; raises as `recipe_of`."""
    recipe = recipe_of(config)
    settings = recipe.model_dump(mode="json", exclude_none=True)
    return f"openvino-{recipe.weight_format}", {"quant_method": QUANT_METHOD, **settings}


def differences(given: Mapping[str, Any], has: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings that were given and are not those of an OpenVINO model.

    Args:
        given: A config as it was given: what it leaves out may be anything.
        has: The model's, as far as it is known.

    Returns:
        Name of the setting -> its value in both; None in the second is one that is not known.
    """
    wanted = {key: value for key, value in for_record(given).items() if value is not None}
    stored = for_record(has)
    return {key: (value, stored.get(key)) for key, value in wanted.items() if value != stored.get(key)}


def for_record(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as MLmodel holds it: of the texts that calibrated it, how many there were."""
    texts = config.get("calibration")
    return {**config, "calibration": f"{len(texts)} texts"} if isinstance(texts, list | tuple) else dict(config)


def bits_of(config: Mapping[str, Any]) -> int | None:
    """Bits of a weight."""
    return _BITS.get(config.get("weight_format", ""))


def require_export_packages(what: str) -> None:
    """Refuse to begin an export that cannot end.

    Raises:
        MissingDependencyError: With the pip command.
    """
    if missing := [name for name in EXPORT_PACKAGES if not is_importable(name)]:
        raise MissingDependencyError(
            f"{what} needs {' and '.join(missing)}: pip install 'mlflow-llm-plugins[openvino-export]'"
        )
