"""Quantization methods: one table of names, and any configuration that transformers knows.

Those of transformers quantize torch weights; those of OpenVINO export the model into a form of its own.

A method is checked against this machine before any weight is read. To add one: a row in `QUANTIZATION_CONFIGS`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from mlflow_llm_plugins.errors import (
    HardwareError,
    InvalidInputError,
    LLMError,
    MissingDependencyError,
    UnsupportedFeatureError,
)
from mlflow_llm_plugins.lookup import did_you_mean, is_importable
from mlflow_llm_plugins.quantized_llm import openvino_recipes
from mlflow_llm_plugins.quantized_llm.record import Applied, QuantizationRecord

_logger = logging.getLogger(__name__)

NONE = "none"  # switches off what an artifact has recorded
AUTO = "auto"  # chosen for model and machine: `auto.choose_quantization`

QUANTIZATION_CONFIGS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "nf4": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        "fp4": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
        "int8": {"quant_method": "bitsandbytes", "load_in_8bit": True},
        **openvino_recipes.OPENVINO_CONFIGS,
    }
)
# What transformers' methods import, as far as their own error does not say how to install it.
PACKAGES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "bitsandbytes": ("bitsandbytes", "accelerate"),
        "gptq": ("gptqmodel", "optimum"),
        "awq": ("gptqmodel",),
        "hqq": ("hqq",),
        "torchao": ("torchao",),
        "compressed-tensors": ("compressed_tensors",),
        "quanto": ("optimum.quanto",),
        "auto-round": ("auto_round",),
    }
)


@dataclass(frozen=True, slots=True)
class Quantization:
    """A method with its settings."""

    method: str  # "none", a key of QUANTIZATION_CONFIGS, or transformers' quant_method, for example "gptq"
    config: Mapping[str, Any]  # for transformers' AutoQuantizationConfig, or as given of an OpenVINO recipe

    @property
    def is_none(self) -> bool:
        """Whether it stands for switching quantization off."""
        return self.method == NONE

    @property
    def is_auto(self) -> bool:
        """Whether it stands for a choice that is still to be made."""
        return self.method == AUTO

    @property
    def is_openvino(self) -> bool:
        """Whether it exports an OpenVINO model."""
        return openvino_recipes.is_openvino(self.config)

    @property
    def packages(self) -> tuple[str, ...]:
        """Modules that must be importable."""
        return PACKAGES.get(self.config.get("quant_method", ""), ())

    def for_dtype(self, dtype: str) -> Quantization:
        """The same, computing in the model's own type unless its settings name another."""
        if not self.config.get("load_in_4bit"):
            return self
        return replace(self, config={"bnb_4bit_compute_dtype": dtype, **self.config})

    def to_transformers(self) -> Any:
        """The configuration object that `from_pretrained(quantization_config=...)` takes.

        Raises:
            InvalidInputError: transformers refuses a setting.
            MissingDependencyError: The configuration cannot even be built without its package.
        """
        from transformers.quantizers.auto import AutoQuantizationConfig

        try:
            return AutoQuantizationConfig.from_dict(dict(self.config))
        except ImportError as error:
            raise MissingDependencyError(f"quantization={self.method!r}: {error}") from error
        except (TypeError, ValueError, KeyError, AttributeError, NotImplementedError) as error:
            raise InvalidInputError(f"quantization={dict(self.config)!r}: {error}") from error

    def completed(self, dtype: str) -> Quantization:
        """The same with every setting that was left out; raises as `to_transformers` does."""
        if self.is_auto:
            return self
        if self.is_openvino:
            return Quantization(*openvino_recipes.complete(self.config))
        return replace(self, config=_plain(self.for_dtype(dtype).to_transformers()))

    def record(self, applied: Applied) -> QuantizationRecord:
        """The facts for MLmodel."""
        four_bit = bool(self.config.get("load_in_4bit"))
        exported = self.is_openvino and applied == "when saved"
        return QuantizationRecord(
            method=self.method,
            bits=openvino_recipes.bits_of(self.config) if self.is_openvino else _bits(self.config),
            quant_type=self.config.get("bnb_4bit_quant_type") if four_bit else None,
            compute_dtype=self.config.get("bnb_4bit_compute_dtype") if four_bit else None,
            double_quant=self.config.get("bnb_4bit_use_double_quant") if four_bit else None,
            applied=applied,
            config=openvino_recipes.for_record(self.config) if exported else dict(self.config),
        )


def parse_quantization(value: Any) -> Quantization | None:
    """Understand what a user gave as `quantization`.

    Args:
        value: None; "none"; "auto"; a name of `QUANTIZATION_CONFIGS`; {"method": name, **settings of transformers'
            configuration}; or a transformers quantization config, as an object or as its dict.

    Raises:
        InvalidInputError: Names the value, what is allowed and the nearest known name.
    """
    if value is None or isinstance(value, Quantization):
        return value
    if isinstance(value, str):
        return _named(value, {})
    if isinstance(value, Mapping):
        if "method" in value:
            return _named(value["method"], {key: item for key, item in value.items() if key != "method"})
        if {"quant_method", "load_in_4bit", "load_in_8bit"} & set(value):
            return _of_transformers(value)
    elif hasattr(value, "quant_method") and hasattr(value, "to_dict"):
        return _of_transformers(_plain(value))
    raise InvalidInputError(f"quantization={value!r} is not understood. {_allowed()}")


def as_plain(value: Any) -> str | dict[str, Any] | None:
    """A `quantization` argument as a value that JSON can hold, checked; None stays None."""
    if value is None or isinstance(value, str):
        return value
    parsed = parse_quantization(value)
    return dict(parsed.config) if parsed else None


def check_environment(quantization: Quantization, *, pre_quantized: bool, device_map: Any = None) -> None:
    """Refuse a method that cannot run here; reads no weight.

    Args:
        quantization: The method.
        pre_quantized: Whether the weights are quantized already, so that it only has to run.
        device_map: Where the weights will go, as transformers takes it.

    Raises:
        MissingDependencyError: A package is not installed; with the pip command.
        HardwareError: transformers or the package does not support this machine; with the reason.
        UnsupportedFeatureError: It needs calibration, which cannot happen while loading.
    """
    if quantization.is_openvino:
        openvino_recipes.require_export_packages(f"quantization={quantization.method!r}")
        return
    missing = [name for name in quantization.packages if not is_importable(name)]
    if missing:
        raise MissingDependencyError(_how_to_install(quantization, missing))
    from transformers.quantizers.auto import AutoHfQuantizer

    config = quantization.to_transformers()
    if AutoHfQuantizer.from_config(config).requires_calibration and not pre_quantized:
        raise UnsupportedFeatureError(
            f"quantization={quantization.method!r} needs calibration data and cannot be applied while loading. "
            "Quantize the model with that method's own library, then log the quantized checkpoint."
        )
    try:
        quantizer = AutoHfQuantizer.from_config(config, pre_quantized=pre_quantized)
        quantizer.validate_environment(device_map=device_map, weights_only=True)
    except ImportError as error:
        raise MissingDependencyError(f"quantization={quantization.method!r}: {error}") from error
    except (RuntimeError, ValueError, OSError) as error:
        raise HardwareError(f"quantization={quantization.method!r} cannot run on this machine: {error}") from error
    _warn_if_slow(quantization)


def check_savable(quantization: Quantization) -> None:
    """Refuse a method whose weights transformers cannot write.

    Raises:
        UnsupportedFeatureError: With the way out, quantizing at load.
    """
    if quantization.is_openvino:
        return
    from transformers.quantizers.auto import AutoHfQuantizer

    if not AutoHfQuantizer.from_config(quantization.to_transformers(), pre_quantized=True).is_serializable():
        raise UnsupportedFeatureError(
            f"Weights quantized with {quantization.method!r} cannot be saved. Log the model as it is and quantize "
            "when it is loaded: engine_config={'quantization': ...}, or save_pretrained=False."
        )


def of_checkpoint(config: Mapping[str, Any]) -> Quantization | None:
    """How the weights of a checkpoint are quantized already, by its config.json; None when they are not."""
    found = config.get("quantization_config")
    return _of_transformers(found) if found else None


def still_to_apply(wanted: Quantization | None, stored: Quantization | None) -> Quantization | None:
    """What remains of `wanted` on weights that are stored as they are: nothing where they have that method already.

    Raises:
        InvalidInputError: They are quantized with another method or other settings, or should not be quantized but
                are.
    """
    if wanted is None or stored is None:
        return None if wanted is None or wanted.is_none else wanted
    if wanted.is_auto:
        return None
    if wanted.method == stored.method:
        _refuse_other_settings(wanted, stored)
        _logger.info("The weights are quantized with %r already; they stay as they are.", stored.method)
        return None
    raise InvalidInputError(
        f"quantization={wanted.method!r}, but the weights are quantized with {stored.method!r} already. Leave "
        "quantization out to keep them, or start from the checkpoint that is not quantized."
    )


def other_settings(wanted: Quantization, has: Mapping[str, Any]) -> tuple[str, str] | None:
    """Settings that were asked for and that an OpenVINO model does not have; None where it has all of them.

    Args:
        wanted: The method that it has.
        has: Its settings, as far as they are known.

    Returns:
        For a message: what is wanted, and what it has.
    """
    different = openvino_recipes.differences(wanted.config, has)
    if not different:
        return None
    stored = (f"{key}={_known(value)}" for key, (_, value) in different.items())
    return _listed({key: value for key, (value, _) in different.items()}), ", ".join(stored)


def _known(value: Any) -> str:
    return "(not known)" if value is None else repr(value)


def _refuse_other_settings(wanted: Quantization, stored: Quantization) -> None:
    has = _with_defaults(stored)
    other = {key: value for key, value in wanted.config.items() if _comparable(value) != _comparable(has.get(key))}
    if other:
        raise InvalidInputError(
            f"quantization={wanted.method!r} with {_listed(other)}, but the weights are quantized already, with "
            f"{_listed({key: has.get(key) for key in other})}. Leave quantization out to keep them, or start from the "
            "checkpoint that is not quantized."
        )


def _with_defaults(quantization: Quantization) -> Mapping[str, Any]:
    try:
        return {**_plain(quantization.to_transformers()), **quantization.config}
    except LLMError:  # a method whose package is not installed; then only what is written counts
        return quantization.config


def _comparable(value: Any) -> str:
    """Types of torch are spelled in three ways."""
    return str(value).removeprefix("torch.")


def _listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in settings.items())


def _named(name: Any, settings: Mapping[str, Any]) -> Quantization:
    if name in (NONE, AUTO):
        if settings:
            raise InvalidInputError(
                f"quantization={name!r} takes no settings, got {_listed(settings)}. Leave them out."
            )
        return Quantization(name, {})
    if not isinstance(name, str) or name not in QUANTIZATION_CONFIGS:
        raise InvalidInputError(
            f"Unknown quantization {name!r}.{did_you_mean(name, [NONE, AUTO, *QUANTIZATION_CONFIGS])} {_allowed()}"
        )
    row = QUANTIZATION_CONFIGS[name]
    if other := {key: value for key, value in settings.items() if key in row and value != row[key]}:
        raise InvalidInputError(
            f"quantization={name!r} means {_listed({key: row[key] for key in other})}, got {_listed(other)}. Choose "
            "the method whose settings these are, or leave them out."
        )
    return _of_transformers({**row, **settings})


def _of_transformers(config: Mapping[str, Any]) -> Quantization:
    config = dict(config)
    if openvino_recipes.is_openvino(config):
        return Quantization(openvino_recipes.complete(config)[0], config)  # only what was given
    if {"load_in_4bit", "load_in_8bit"} & set(config):
        config.setdefault("quant_method", "bitsandbytes")
    if config.get("quant_method") != "bitsandbytes":
        return Quantization(str(config.get("quant_method")), config)
    if isinstance(config.get("llm_int8_threshold"), int):  # JSON writes 6, transformers insists on a float
        config["llm_int8_threshold"] = float(config["llm_int8_threshold"])
    _refuse_unknown_settings(config)
    if config.get("load_in_8bit"):
        return Quantization("int8", config)
    if not config.get("load_in_4bit"):
        raise InvalidInputError(
            "A bitsandbytes configuration must set load_in_4bit or load_in_8bit, and this one sets neither. Add one, "
            "or give the method by its name: 'nf4', 'fp4' or 'int8'."
        )
    return Quantization(str(config.get("bnb_4bit_quant_type", "fp4")), config)


def _refuse_unknown_settings(config: Mapping[str, Any]) -> None:
    """Unknown settings of bitsandbytes would be dropped by transformers, with a line at info level."""
    from transformers import BitsAndBytesConfig

    known = set(BitsAndBytesConfig().to_dict())
    for key in sorted(set(config) - known):
        allowed = ", ".join(sorted(name for name in known if not name.startswith("_")))
        raise InvalidInputError(f"Unknown quantization setting {key!r}.{did_you_mean(key, known)} Known: {allowed}.")


def _allowed() -> str:
    return (
        f"Allowed: None, {', '.join(repr(name) for name in [NONE, AUTO, *QUANTIZATION_CONFIGS])}, "
        '{"method": name, setting: value, ...}, or any transformers quantization config as an object or dict.'
    )


def _bits(config: Mapping[str, Any]) -> int | None:
    if config.get("load_in_4bit"):
        return 4
    if config.get("load_in_8bit"):
        return 8
    found = next((config[key] for key in ("bits", "nbits", "w_bit") if config.get(key)), None)
    return found if isinstance(found, int) else None


def _plain(config: Any) -> dict[str, Any]:
    """JSON values only, as transformers writes them into config.json."""
    plain: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return plain


def _how_to_install(quantization: Quantization, missing: list[str]) -> str:
    needs = f"quantization={quantization.method!r} needs {' and '.join(missing)}"
    if quantization.config.get("quant_method") == "bitsandbytes":
        return f"{needs}: pip install 'mlflow-llm-plugins[torch]'"
    return f"{needs}: pip install {' '.join(name.replace('.', '-').replace('_', '-') for name in missing)}"


def _warn_if_slow(quantization: Quantization) -> None:
    from mlflow_llm_plugins import hardware

    machine = hardware.probe()
    if quantization.config.get("quant_method") == "bitsandbytes" and not machine.accelerators:
        if machine.cpu.has_avx512:
            return
        _logger.warning(
            "%s saves memory, but this CPU has no AVX-512: bitsandbytes is slower than float32 on it. "
            "quantization='none' at load time switches it off.",
            quantization.method,
        )
