"""What is quantized when a model is logged, and what when it is loaded: decided before any weight is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError, UnsupportedFeatureError
from mlflow_llm_plugins.quantized_llm import auto
from mlflow_llm_plugins.quantized_llm.config import ModelConfig
from mlflow_llm_plugins.quantized_llm.openvino_export.exportable import check_exportable
from mlflow_llm_plugins.quantized_llm.openvino_folder import OpenVINOFolder
from mlflow_llm_plugins.quantized_llm.quantization import (
    AUTO,
    NONE,
    Quantization,
    check_environment,
    check_savable,
    of_checkpoint,
    other_settings,
    parse_quantization,
    still_to_apply,
)
from mlflow_llm_plugins.quantized_llm.source import ModelSource


@dataclass(frozen=True, slots=True)
class PlannedQuantization:
    """What happens when."""

    now: Quantization | None = None  # while saving
    at_load: Quantization | None = None
    reason: str | None = None  # why "auto" chose it


def wanted_quantization(quantization: Any, config: ModelConfig) -> Quantization | None:
    """What is asked for while saving.

    Raises:
        InvalidInputError: It is not understood, or something else is asked for when the model is loaded.
    """
    requested, at_load = parse_quantization(quantization), parse_quantization(config.quantization)
    if requested and at_load:
        raise InvalidInputError(
            f"quantization={requested.method!r}, and engine_config has quantization={at_load.method!r} for when the "
            "model is loaded. Give one of them."
        )
    return requested


def plan_quantization(
    source: ModelSource,
    requested: Quantization | None,
    config: ModelConfig,
    parameters: int | None,
    *,
    save_pretrained: bool,
) -> PlannedQuantization:
    """Decide for a source; what "auto" chose is told.

    Args:
        source: What is logged.
        requested: For while it is saved.
        config: What is asked for when it is loaded.
        parameters: Of the model, as far as it is known.
        save_pretrained: Whether the weights are saved, not a reference to them.

    Raises:
        LLMError: It cannot be done here, or with these weights.
    """
    requested, reason = _settled(source, requested, parameters, config.engine)
    at_load = parse_quantization(config.quantization)
    if source.openvino:
        _refuse_other_engine(config.engine)
        _refuse_other_method(source.openvino, requested or at_load)
        return PlannedQuantization(reason=reason)
    if save_pretrained:
        stored = of_checkpoint(source.config)
        requested = still_to_apply(requested, stored)
    else:  # a model in memory may be quantized though what it was loaded from is not
        stored = of_checkpoint(source.stored_config())
        requested, at_load = None, requested or at_load or of_checkpoint(source.config)
    if requested:
        _check(source, requested, config)
    at_load = still_to_apply(at_load, stored)
    if requested is None or not requested.is_openvino:
        _check_load(source.config if save_pretrained else source.stored_config(), requested or at_load, config.engine)
    return PlannedQuantization(requested, at_load, reason)


def plan_without_export(
    source: ModelSource, config: ModelConfig, parameters: int | None, why_not_openvino: str
) -> PlannedQuantization:
    """Choose again, where the export that "auto" chose has failed; arguments and errors as `plan_quantization`."""
    chosen, reason = _settled(source, Quantization(AUTO, {}), parameters, config.engine, why_not_openvino)
    if chosen:
        _check(source, chosen, config)
    return PlannedQuantization(chosen, reason=reason)


def _settled(
    source: ModelSource,
    requested: Quantization | None,
    parameters: int | None,
    engine: str | None,
    why_not_openvino: str | None = None,
) -> tuple[Quantization | None, str | None]:
    """What "auto" stands for, and why."""
    if requested is None or not requested.is_auto:
        return requested, None
    if source.openvino or of_checkpoint(source.config):
        choice = auto.Choice(NONE, "the weights stay as they are")
    else:
        if parameters is None and source.model is not None:
            parameters = int(source.model.num_parameters())
        situation = auto.Situation.of(source.config, parameters, engine=engine, why_not_openvino=why_not_openvino)
        choice = auto.choose_quantization(situation)
    auto.tell("quantization", choice)
    return None if choice.value == NONE else parse_quantization(choice.value), choice.reason


def _check(source: ModelSource, requested: Quantization, config: ModelConfig) -> None:
    """Refuse what would fail while the weights are quantized."""
    if requested.is_openvino:
        _refuse_other_engine(config.engine)
        check_exportable(source.config)
    check_environment(requested, pre_quantized=False)
    check_savable(requested)


def _check_load(config: Mapping[str, Any], quantization: Quantization | None, engine: str | None) -> None:
    """Refuse what could not be exported when it is loaded: nobody is there then to choose otherwise."""
    is_export = quantization is not None and quantization.is_openvino
    if is_export:
        _refuse_other_engine(engine)
    elif not auto.needs_openvino(engine):
        return
    elif quantization is not None and not (quantization.is_none or quantization.is_auto):
        raise UnsupportedFeatureError(
            f"quantization={quantization.method!r} is of torch, and engine={engine!r} runs OpenVINO models. Leave "
            "engine out, or choose one of OpenVINO's methods."
        )
    check_exportable(config)


def _refuse_other_engine(engine: str | None) -> None:
    if auto.is_named(engine) and not auto.needs_openvino(engine):
        raise UnsupportedFeatureError(
            f"engine={engine!r} does not run OpenVINO models, which only the engine 'openvino' does. Leave engine "
            "out, or choose another quantization."
        )


def _refuse_other_method(folder: OpenVINOFolder, wanted: Quantization | None) -> None:
    """An OpenVINO model stays as it is."""
    has = folder.quantization
    if wanted is None or wanted.is_auto:
        return
    if wanted.method != (has.method if has else NONE):
        raise UnsupportedFeatureError(
            f"quantization={wanted.method!r}, but the directory holds an OpenVINO model ({folder.weight_format}), "
            "which is logged as it is. Leave quantization out, or log the original checkpoint with that quantization."
        )
    if has and (other := other_settings(wanted, has.config)):
        raise UnsupportedFeatureError(
            f"quantization={wanted.method!r} with {other[0]}, but the directory holds an OpenVINO model with "
            f"{other[1]}, which is logged as it is. Leave quantization out, or log the original checkpoint with that "
            "quantization."
        )
