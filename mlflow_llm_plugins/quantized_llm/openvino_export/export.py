"""The export: a causal language model and its tokenizer become a folder that OpenVINO GenAI serves."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_llm_plugins.errors import (
    HardwareError,
    InvalidInputError,
    LLMError,
    MissingDependencyError,
    UnsupportedFeatureError,
)
from mlflow_llm_plugins.generation.openvino.ir_files import MODEL_FILE, WEIGHTS_FILE
from mlflow_llm_plugins.generation.openvino.signal_stack import signal_stack_kept
from mlflow_llm_plugins.generation.openvino.telemetry import telemetry_refused
from mlflow_llm_plugins.quantized_llm.openvino_export.exportable import check_exportable
from mlflow_llm_plugins.quantized_llm.openvino_export.machine_errors import is_of_disk, is_of_memory
from mlflow_llm_plugins.quantized_llm.openvino_export.probe import Probe, TorchReference
from mlflow_llm_plugins.quantized_llm.openvino_export.recipe import OpenVINORecipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["ExportReport", "check_exportable", "export_model"]

_DTYPES = ("float32", "bfloat16", "float16")  # of a model's weights


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export was."""

    seconds: float  # of the whole
    weight_bytes: int  # of openvino_model.bin
    traced_dtype: str  # of the weights before compression: "float32", "bfloat16" or "float16"
    probe: Probe


def export_model(model: PreTrainedModel, tokenizer: Any, folder: Path, recipe: OpenVINORecipe) -> ExportReport:
    """Write the model as OpenVINO files and prove them against torch; safe to call from any thread.

    The folder then has openvino_model.xml and .bin, config.json, generation_config.json, the tokenizer's files, and
    tokenizer and detokenizer as OpenVINO models; a warning tells where the last two cannot be made. The model is not
    changed.

    Args:
        model: A causal language model on the CPU, in float32, bfloat16 or float16.
        tokenizer: Its tokenizer.
        folder: An empty folder.
        recipe: How weights are stored.

    Raises:
        UnsupportedFeatureError: The architecture cannot be expressed, or the files answer otherwise than torch does.
        InvalidInputError: The folder is not empty, or the model is not on the CPU, or of another type.
        MissingDependencyError: openvino or nncf is not installed.
        HardwareError: This machine has too little memory.
        OSError: The folder cannot be written, or has no space left.
    """
    start = time.monotonic()
    check_exportable(model.config)
    _check_model(model)
    if not folder.is_dir() or any(folder.iterdir()):
        raise InvalidInputError(f"The export needs an empty folder, and {folder} is none.")
    with (
        telemetry_refused(),
        signal_stack_kept(),
        _explained(model, folder),
        _progress(5 if recipe.is_compressed else 4) as stage,
    ):
        dtype, probe = _export(model, tokenizer, folder, recipe, stage)
    return ExportReport(time.monotonic() - start, (folder / WEIGHTS_FILE).stat().st_size, dtype, probe)


def _export(
    model: Any, tokenizer: Any, folder: Path, recipe: OpenVINORecipe, stage: Callable[[str], None]
) -> tuple[str, Probe]:
    # Here, because importing openvino and nncf reports that, too.
    import openvino as ov

    from mlflow_llm_plugins.quantized_llm.openvino_export.compression import compress
    from mlflow_llm_plugins.quantized_llm.openvino_export.conversion import convert
    from mlflow_llm_plugins.quantized_llm.openvino_export.files import (
        convert_tokenizer,
        write_configuration,
        write_tokenizer,
    )
    from mlflow_llm_plugins.quantized_llm.openvino_export.traceable import traceable_copy, traced_dtype

    tokenizer_models = convert_tokenizer(tokenizer)
    stage("asking torch")
    traced = traceable_copy(model, rounded_to_fp16=recipe.weight_format == "fp16")
    dtype = traced_dtype(traced)
    reference = TorchReference.of(model, traced)
    stage("tracing")
    converted = convert(traced)
    _return_freed_memory()
    uncompressed_difference = None
    if recipe.is_compressed:
        uncompressed_difference = reference.check(converted)
        stage("compressing")
        converted = compress(converted, recipe, tokenizer)
    stage("writing")
    ov.save_model(converted, folder / MODEL_FILE, compress_to_fp16=False)
    del converted, traced  # before the files are read
    write_configuration(model, folder)
    write_tokenizer(tokenizer, tokenizer_models, folder)
    stage("checking")
    return dtype, reference.prove(folder, uncompressed_difference)


def _return_freed_memory() -> None:
    """Give back what tracing freed: between what it kept, glibc holds as much as the 16-bit weights take."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def _check_model(model: Any) -> None:
    if getattr(model.config, "quantization_config", None) is not None:
        raise UnsupportedFeatureError("Quantized weights cannot be exported to OpenVINO: export the original weights.")
    devices = sorted({str(parameter.device) for parameter in model.parameters()})
    if "meta" in devices:
        raise InvalidInputError(
            "The export needs the model's weights, and some of them are not loaded (device meta). Load the model with "
            "device_map='cpu'."
        )
    if devices != ["cpu"]:
        raise InvalidInputError(f"The export needs a model on the CPU, this one is on {', '.join(devices)}.")
    _check_dtypes({str(parameter.dtype) for parameter in model.parameters() if parameter.is_floating_point()})


def _check_dtypes(found: set[str]) -> None:
    if other := sorted(name.removeprefix("torch.") for name in found if name.removeprefix("torch.") not in _DTYPES):
        raise InvalidInputError(
            f"The export takes weights in {', '.join(_DTYPES)}, and this model has {', '.join(other)}. Load it in "
            "float32."
        )


@contextmanager
def _progress(stages: int) -> Iterator[Callable[[str], None]]:
    """A bar on the terminal, and a function that says which stage begins."""
    from tqdm.auto import tqdm

    with tqdm(total=stages, desc="Exporting to OpenVINO", unit="stage", disable=None) as bar:
        begun = False

        def stage(name: str) -> None:
            nonlocal begun
            bar.update(int(begun))
            bar.set_postfix_str(name)
            begun = True

        yield stage
        bar.update(1)


@contextmanager
def _explained(model: Any, folder: Path) -> Iterator[None]:
    """Whatever the libraries raise about a model that they cannot express, as ours, with its name."""
    name = type(model).__name__
    try:
        yield
    except UnsupportedFeatureError as error:
        raise UnsupportedFeatureError(f"{name} cannot be exported to OpenVINO: {error}.") from error
    except (LLMError, OSError):
        raise
    except ImportError as error:
        raise MissingDependencyError(
            f"The export to OpenVINO needs a package ({error}): pip install 'mlflow-llm-plugins[openvino-export]'"
        ) from error
    except Exception as error:  # of torch's tracer, transformers or OpenVINO's frontend, with classes of all kinds
        if is_of_memory(error):
            raise HardwareError(
                f"{name} cannot be exported to OpenVINO on this machine: its memory is too small ({error})."
            ) from error
        if is_of_disk(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UnsupportedFeatureError(f"{name} cannot be exported to OpenVINO: {reason}") from error
