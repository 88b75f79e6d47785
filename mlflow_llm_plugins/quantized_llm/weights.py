"""Weights in and out: loaded by transformers, written as safetensors, or copied as they are."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow_llm_plugins.errors import (
    CheckpointError,
    HardwareError,
    InvalidInputError,
    LLMError,
    MissingDependencyError,
    UnsupportedFeatureError,
)
from mlflow_llm_plugins.openai_api.decisions.temperatures import DECISION_CONFIG
from mlflow_llm_plugins.quantized_llm.checkpoint import (
    CONFIG_FILE,
    GENERATION_CONFIG_FILE,
    INDEX_FILE,
    Checkpoint,
)
from mlflow_llm_plugins.quantized_llm.completeness import check_complete, check_quantized, check_reloadable
from mlflow_llm_plugins.quantized_llm.packed import savable
from mlflow_llm_plugins.quantized_llm.quantization import Quantization, of_checkpoint
from mlflow_llm_plugins.quantized_llm.repeated_warnings import say_once
from mlflow_llm_plugins.quantized_llm.source import ModelSource

DEVICE_STRATEGIES = {"auto", "balanced", "balanced_low_0", "sequential"}  # accelerate's
SAMPLING_KEYS = ("temperature", "top_p", "top_k", "min_p", "typical_p", "top_h", "epsilon_cutoff", "eta_cutoff")
BEAM_KEYS = ("early_stopping", "length_penalty")
ALWAYS_THERE = {"cpu", "disk", "meta"}


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and how transformers puts the weights."""

    device_map: str | int | dict[str, str | int] | None = None  # None: the first accelerator, else the CPU
    dtype: str | None = None  # None: the checkpoint's
    attn_implementation: str | None = None  # None: transformers' choice
    max_memory: Mapping[str | int, str | int] | None = None

    def check(self) -> None:
        """Refuse devices that this machine does not have.

        Raises:
            InvalidInputError: A name that no device has.
            HardwareError: A device of another machine.
        """
        devices = self.device_map.values() if isinstance(self.device_map, dict) else [self.device_map]
        for device in devices:
            if device is not None and device not in DEVICE_STRATEGIES | ALWAYS_THERE:
                _check_device(device)

    def describe(self) -> str:
        """What was given, as the arguments of `load_model`; empty where nothing was."""
        given = {
            "device_map": self.device_map,
            "attn_implementation": self.attn_implementation,
            "max_memory": self.max_memory,
        }
        return ", ".join(f"{key}={value!r}" for key, value in given.items() if value is not None)

    def for_transformers(self) -> dict[str, Any]:
        """Arguments of `from_pretrained`."""
        arguments: dict[str, Any] = {"dtype": self.dtype or "auto", "device_map": self.device_map}
        if self.max_memory is not None:
            arguments |= {"max_memory": dict(self.max_memory), "device_map": self.device_map or "auto"}
        elif self.device_map is None:
            arguments["device_map"] = _first_accelerator()
        if self.attn_implementation is not None:
            arguments["attn_implementation"] = self.attn_implementation
        return {key: value for key, value in arguments.items() if value is not None}


def load_weights(
    checkpoint: Checkpoint,
    placement: Placement,
    quantization: Quantization | None = None,
    trust_remote_code: bool = False,
) -> Any:
    """A `PreTrainedModel` in evaluation mode, on its device.

    Args:
        checkpoint: Where the weights are.
        placement: Device and type.
        quantization: Applied while loading. None: as the checkpoint is.
        trust_remote_code: Whether Python code of the checkpoint may run.

    Raises:
        CheckpointError: transformers cannot load it, or does not find all its weights.
        InvalidInputError: transformers cannot do what `placement` says.
        HardwareError: This machine lacks the device or the memory.
        MissingDependencyError: A package is missing.
    """
    from transformers import AutoModelForCausalLM

    say_once()
    placement.check()
    arguments = placement.for_transformers()
    if quantization is not None:
        check_weights(checkpoint, trust_remote_code)  # while quantizing, transformers overlooks wrong shapes
        arguments["quantization_config"] = quantization.to_transformers()
    with _explained(checkpoint, placement):
        # Only by from_pretrained: load_state_dict drops the state of 4-bit weights (bitsandbytes#1946).
        model, report = AutoModelForCausalLM.from_pretrained(
            checkpoint.folder,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are in the report, too
            **arguments,
        )
    check_complete(report, model, str(checkpoint.folder))
    if quantization is not None:
        check_quantized(model, quantization)
    return model


def check_weights(checkpoint: Checkpoint, trust_remote_code: bool) -> None:
    """Refuse a checkpoint whose weights are not those of its model; looks at names and shapes only.

    Quantized weights are left to the load: bitsandbytes cannot take them apart without reading them.

    Raises:
        CheckpointError: As `load_weights`.
    """
    if of_checkpoint(checkpoint.config) is None:
        load_weights(checkpoint, Placement(device_map="meta"), trust_remote_code=trust_remote_code)


def dequantize(model: Any, dtype: str | None = None) -> Any:
    """The model with its quantized weights expanded; what quantizing rounded away stays lost.

    Args:
        model: As loaded.
        dtype: Of all its weights then, for example "float32"; None is the type of those that are not quantized.

    Raises:
        UnsupportedFeatureError: transformers cannot do that for this method.
    """
    import torch

    method = model.config.quantization_config.quant_method
    try:
        wanted = getattr(torch, dtype) if dtype else model.dtype
        return model.dequantize(dtype=wanted).to(wanted)
    except NotImplementedError as error:
        raise UnsupportedFeatureError(
            f"quantization='none': weights quantized with {str(method)!r} cannot be expanded. "
            "Log the original checkpoint."
        ) from error


def write_model(model: Any, folder: Path) -> None:
    """Write a model in memory as safetensors; the model is not changed."""
    _save_pretrained(savable(model), folder)


@contextmanager
def checkpoint_of(source: ModelSource) -> Iterator[Checkpoint]:
    """The source's weights on disk; those of a model in memory are written to a temporary folder."""
    if source.model is None:
        yield source.open_checkpoint()
        return
    with tempfile.TemporaryDirectory(prefix="mlflow-llm-") as folder:
        write_model(source.model, Path(folder))
        yield Checkpoint.open(Path(folder))


def write_quantized(
    checkpoint: Checkpoint, folder: Path, quantization: Quantization, dtype: str, trust_remote_code: bool
) -> None:
    """Quantize a checkpoint layer by layer as it is read, and write the result."""
    model = load_weights(checkpoint, Placement(dtype=dtype), quantization, trust_remote_code)
    _save_pretrained(model, folder)


def write_configuration(source: ModelSource, folder: Path) -> None:
    """Copy what a reference needs beside its weights."""
    assert source.folder is not None
    _copy_small_files(source.folder, folder, code=source.trust_remote_code)


def copy_checkpoint(checkpoint: Checkpoint, folder: Path, *, staged: bool, code: bool) -> None:
    """Copy configuration and weights without loading them; no weights in other formats.

    Args:
        checkpoint: What to copy.
        folder: Where to.
        staged: `folder` is itself copied and deleted soon, so links to the weights do.
        code: Also the model's own Python files.
    """
    _copy_small_files(checkpoint.folder, folder, code=code)
    if len(checkpoint.weight_files) > 1:
        shutil.copyfile(checkpoint.folder / INDEX_FILE, folder / INDEX_FILE)
    if staged:
        for file in checkpoint.weight_files:
            (folder / file.name).symlink_to(file.resolve())
    else:
        _copy_with_progress(checkpoint, folder)


def count_parameters(folder: Path, trust_remote_code: bool) -> int:
    """Logical parameters of the architecture: each tied one once, whatever the weights are packed into.

    Raises:
        CheckpointError: transformers cannot build the model that config.json describes.
        MissingDependencyError: The model's own code needs a package.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        with torch.device("meta"):
            skeleton = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except ImportError as error:
        raise MissingDependencyError(f"The model of {folder} cannot be built: {error}") from error
    except Exception as error:  # as many classes as there are ways to get a configuration wrong
        raise CheckpointError(
            f"transformers cannot build the model that {folder / CONFIG_FILE} describes: {_first_lines(error)} "
            "Correct the file, or download it again."
        ) from error
    return int(skeleton.num_parameters())


@contextmanager
def _explained(checkpoint: Checkpoint, placement: Placement) -> Iterator[None]:
    """Whatever transformers and those below it raise, as one of ours."""
    import torch

    said = f"transformers cannot load {checkpoint.folder}"
    try:
        yield
    except LLMError:
        raise
    except torch.OutOfMemoryError as error:
        raise HardwareError(f"{said}: the memory of the device is full. {_first_lines(error)}") from error
    except ImportError as error:
        raise MissingDependencyError(f"{said}: {error}") from error
    except Exception as error:
        if isinstance(error, NotImplementedError) and of_checkpoint(checkpoint.config):
            # It draws random numbers in place of what is missing, which cannot be done for packed weights.
            raise CheckpointError(
                f"{said}: quantized weights are missing ({error}). Copy or download it again, or quantize it again."
            ) from error
        given = placement.describe()
        if given and isinstance(error, ValueError):
            raise InvalidInputError(f"{said} with {given}: {_first_lines(error)}") from error
        raise CheckpointError(f"{said}: {_first_lines(error)}") from error


def _check_device(device: str | int) -> None:
    import torch

    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    there = [f"{accelerator.type}:{i}" for i in range(torch.accelerator.device_count())] if accelerator else []
    allowed = f"This machine has {', '.join([*there, 'cpu'])}."
    if isinstance(device, int):
        found = device < len(there)
    else:
        try:
            parsed = torch.device(device)
        except RuntimeError as error:
            names = ", ".join(repr(name) for name in sorted(DEVICE_STRATEGIES))
            raise InvalidInputError(
                f"device_map={device!r} is neither a device nor one of {names}. {allowed}"
            ) from error
        found = parsed.type == "cpu" or f"{parsed.type}:{parsed.index or 0}" in there
    if not found:
        raise HardwareError(f"device_map={device!r}: there is no such device. {allowed} Leave device_map out.")


def _save_pretrained(model: Any, folder: Path) -> None:
    """Write a model that is ours to change."""
    check_reloadable(model)
    _drop_unused(model.generation_config)
    model.save_pretrained(folder)
    for file in folder.glob("*.safetensors"):  # safetensors 0.8 leaves them readable for their owner alone
        file.chmod((folder / CONFIG_FILE).stat().st_mode)


def _drop_unused(generation_config: Any) -> None:
    """Take out what transformers ignores when it generates, but refuses when it saves.

    Raises:
        InvalidInputError: What is left contradicts itself.
    """
    if generation_config is None:
        return
    unused: tuple[str, ...] = () if generation_config.do_sample else SAMPLING_KEYS
    unused += () if (generation_config.num_beams or 1) > 1 else BEAM_KEYS
    for key in unused:
        setattr(generation_config, key, None)
    try:
        generation_config.validate(strict=True)
    except ValueError as error:
        raise InvalidInputError(
            f"The model's generation_config contradicts itself: {_first_lines(error)} Correct it in the model, or in "
            "the checkpoint's generation_config.json."
        ) from error


def _first_lines(error: Exception) -> str:
    """The message without its tail of advice, or the class of an error that has none."""
    return str(error).strip().partition("\n\n")[0] or type(error).__name__


def _first_accelerator() -> str | None:
    import torch

    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found.type if found else None


def _copy_small_files(source: Path, folder: Path, *, code: bool) -> None:
    scripts = [file.name for file in source.glob("*.py") if code]
    for name in (CONFIG_FILE, GENERATION_CONFIG_FILE, DECISION_CONFIG, *scripts):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def _copy_with_progress(checkpoint: Checkpoint, folder: Path) -> None:
    from tqdm.auto import tqdm

    total = checkpoint.weight_bytes
    with tqdm(total=total, unit="B", unit_scale=True, desc="Copying weights", disable=None) as bar:
        for file in checkpoint.weight_files:
            shutil.copyfile(file, folder / file.name)
            bar.update(file.stat().st_size)
