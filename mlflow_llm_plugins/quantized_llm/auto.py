"""What "auto" stands for: quantization and engine, chosen for a model on this machine, with the reason.

| machine | quantization | engine |
|---|---|---|
| NVIDIA GPU | int8 where 8-bit weights leave room (from compute capability 7.5), else nf4 | transformers |
| CPU, with OpenVINO, and the architecture exports | openvino-int8; openvino-int4 where 8 bits do not fit | openvino |
| CPU with AVX-512 | nf4 | transformers |
| any other | none | transformers |

Weights that are quantized already stay as they are. An engine that was named is kept to: 'openvino' gets one of its
own methods or an error, any other none of them. An export that fails is a reason, too: without it another choice is
made.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_llm_plugins import hardware
from mlflow_llm_plugins.errors import HardwareError, UnsupportedFeatureError
from mlflow_llm_plugins.generation.engines import ENGINES, engine_row
from mlflow_llm_plugins.generation.openvino.memory import memory_to_open
from mlflow_llm_plugins.hardware import Accelerator, Cpu, Hardware
from mlflow_llm_plugins.lookup import is_importable
from mlflow_llm_plugins.quantized_llm.openvino_recipes import EXPORT_PACKAGES
from mlflow_llm_plugins.quantized_llm.quantization import AUTO

_logger = logging.getLogger(__name__)

_ROOM = 0.6  # the share of a GPU's memory that weights may take; the rest is for cache and arithmetic
_INT8_CAPABILITY = (7, 5)  # the first with 8-bit tensor cores


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen, and why."""

    value: str
    reason: str


@dataclass(frozen=True, slots=True)
class Situation:
    """What a choice depends on."""

    parameters: int | None
    why_not_openvino: str | None  # None: the model can be exported here
    has_bitsandbytes: bool
    machine: Hardware
    free_bytes: int  # of main memory
    weight_bytes: int | None = None  # as they are stored, where they may run so
    needs_openvino: bool = False  # since that is the engine that was named

    @classmethod
    def of(
        cls,
        config: Mapping[str, Any],
        parameters: int | None,
        *,
        weight_bytes: int | None = None,
        engine: str | None = None,
        why_not_openvino: str | None = None,
    ) -> Situation:
        """Look around for a model.

        Args:
            config: The content of its config.json.
            parameters: How many it has, where that is known.
            weight_bytes: Of its weights as they are, where that is known.
            engine: The one that was named; None or "auto": any.
            why_not_openvino: What has shown already that it cannot be exported.
        """
        return cls(
            parameters,
            why_not_openvino or _why_not_with(engine) or why_not_exported(config),
            is_importable("bitsandbytes"),
            hardware.probe(),
            hardware.available_memory_bytes(),
            weight_bytes,
            needs_openvino(engine),
        )


def needs_openvino(engine: str | None) -> bool:
    """Whether an engine was named that runs nothing but OpenVINO models."""
    return is_named(engine) and engine_row(engine).model_format == "openvino"


def is_named(engine: str | None) -> bool:
    """Whether the engine is not left open."""
    return engine not in (None, AUTO)


def choose_quantization(situation: Situation) -> Choice:
    """The method for the table above.

    Raises:
        UnsupportedFeatureError: The engine that was named needs an export, which is not possible.
        HardwareError: It is possible, but the result does not fit the memory.
    """
    if situation.needs_openvino:
        return _for_openvino(situation)
    if situation.machine.accelerators:
        return _for_gpu(situation, situation.machine.accelerators[0])
    return _for_cpu(situation, situation.machine.cpu)


def choose_engine(situation: Situation) -> Choice:
    """The engine for weights that are not quantized."""
    if gpus := situation.machine.accelerators:
        return Choice("transformers", f"the machine has a GPU ({gpus[0].name}), which OpenVINO is not used for")
    if why_not := situation.why_not_openvino or _why_no_room(situation, situation.weight_bytes, "weights"):
        return Choice("transformers", why_not)
    return Choice("openvino", "the model runs on the CPU, where OpenVINO is several times faster than torch")


def why_not_exported(config: Mapping[str, Any]) -> str | None:
    """Why a model with this config.json cannot become an OpenVINO model here; None where it can."""
    packages = dict.fromkeys((*EXPORT_PACKAGES, *ENGINES["openvino"].packages))
    if missing := [name for name in packages if not is_importable(name)]:
        verb = "is" if len(missing) == 1 else "are"
        return f"{' and '.join(missing)} {verb} not installed (pip install 'mlflow-llm-plugins[openvino-export]')"
    from mlflow_llm_plugins.quantized_llm.openvino_export.exportable import check_exportable

    try:
        check_exportable(config)
    except UnsupportedFeatureError as error:
        return str(error).rstrip(".")
    return None


def _why_not_with(engine: str | None) -> str | None:
    return f"the engine is {engine!r}" if is_named(engine) and not needs_openvino(engine) else None


def tell(what: str, choice: Choice) -> None:
    """Say what was chosen, and note it on the run that is active, if one is."""
    _logger.warning("%s='auto': %r, since %s.", what, choice.value, choice.reason)
    import mlflow

    run = mlflow.active_run()
    if run is not None:
        tags = {f"llm.{what}": choice.value, f"llm.{what}_reason": choice.reason}
        for key, value in tags.items():
            mlflow.MlflowClient().set_tag(run.info.run_id, key, value)


def _for_gpu(situation: Situation, gpu: Accelerator) -> Choice:
    if not situation.has_bitsandbytes:
        return Choice("none", "bitsandbytes is not installed (pip install 'mlflow-llm-plugins[torch]')")
    if gpu.compute_capability is not None and gpu.compute_capability < _INT8_CAPABILITY:
        return Choice("nf4", f"the {gpu.name} has no instructions for 8 bits")
    if not (gpu.memory_bytes and situation.parameters):
        return Choice("nf4", f"the memory of the {gpu.name} or the size of the model is not known")
    if situation.parameters <= _ROOM * gpu.memory_bytes:
        return Choice("int8", f"{_gigabytes(situation.parameters)} of 8-bit weights fit the {gpu.name}")
    return Choice("nf4", f"{_gigabytes(situation.parameters)} of 8-bit weights leave no room on the {gpu.name}")


def _for_cpu(situation: Situation, cpu: Cpu) -> Choice:
    why_not = situation.why_not_openvino or _why_no_room(situation, _int4_bytes(situation), "4-bit weights")
    if why_not is None:
        return _in_openvino(situation)
    if cpu.has_avx512 and situation.has_bitsandbytes:
        return Choice("nf4", f"{why_not}, and with AVX-512 4 bits are faster than float32")
    dtype = "bfloat16" if cpu.has_avx512_bf16 or cpu.has_amx else "float32"
    return Choice("none", f"{why_not}; dtype={dtype!r} is the fastest without quantization here")


def _for_openvino(situation: Situation) -> Choice:
    if situation.why_not_openvino:
        raise UnsupportedFeatureError(
            f"quantization='auto' for the engine 'openvino': {situation.why_not_openvino}. Leave engine out to have "
            "another one chosen."
        )
    if no_room := _why_no_room(situation, _int4_bytes(situation), "4-bit weights"):
        raise HardwareError(
            f"quantization='auto' for the engine 'openvino': {no_room}. Free memory, or leave engine out."
        )
    return _in_openvino(situation)


def _in_openvino(situation: Situation) -> Choice:
    """For what fits in 4 bits at least."""
    if no_room := _why_no_room(situation, situation.parameters, "8-bit weights"):
        return Choice("openvino-int4", no_room)
    return Choice("openvino-int8", "the model runs on the CPU, where OpenVINO is fastest")


def _int4_bytes(situation: Situation) -> int | None:
    return situation.parameters // 2 if situation.parameters else None


def _why_no_room(situation: Situation, weight_bytes: int | None, what: str) -> str | None:
    """Why the engine would refuse to open a model of this size; None where it would not, or the size is not known."""
    if weight_bytes is None or memory_to_open(weight_bytes) <= situation.free_bytes:
        return None
    free = _gigabytes(situation.free_bytes)
    return f"{_gigabytes(weight_bytes)} of {what} leave no room in the {free} of memory that are free"


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
