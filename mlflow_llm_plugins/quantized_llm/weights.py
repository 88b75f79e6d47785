"""Weights in and out: loaded by transformers, written as safetensors, or copied as they are."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow_llm_plugins.errors import CheckpointError, UnsupportedFeatureError
from mlflow_llm_plugins.quantized_llm.checkpoint import (
    CONFIG_FILE,
    GENERATION_CONFIG_FILE,
    INDEX_FILE,
    Checkpoint,
)
from mlflow_llm_plugins.quantized_llm.packed import savable
from mlflow_llm_plugins.quantized_llm.quantization import Quantization
from mlflow_llm_plugins.quantized_llm.repeated_warnings import say_once
from mlflow_llm_plugins.quantized_llm.source import ModelSource

BITSANDBYTES_WEIGHTS = {"Params4bit", "Int8Params"}


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and how transformers puts the weights."""

    device_map: str | int | dict[str, str | int] | None = None  # None: the first accelerator, else the CPU
    dtype: str | None = None  # None: the checkpoint's
    attn_implementation: str | None = None  # None: transformers' choice
    max_memory: Mapping[str | int, str | int] | None = None

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
        CheckpointError: transformers cannot load it.
    """
    from transformers import AutoModelForCausalLM

    say_once()
    arguments = placement.for_transformers()
    if quantization is not None:
        arguments["quantization_config"] = quantization.to_transformers()
    try:
        # Only by from_pretrained: load_state_dict drops the state of 4-bit weights (bitsandbytes#1946).
        model = AutoModelForCausalLM.from_pretrained(
            checkpoint.folder, use_safetensors=True, trust_remote_code=trust_remote_code, **arguments
        )
    except OSError as error:
        raise CheckpointError(f"transformers cannot load {checkpoint.folder}: {error}") from error
    if quantization is not None:
        _check_quantized(model, quantization)
    return model


def _check_quantized(model: Any, quantization: Quantization) -> None:
    """Refuse what changed nothing: layers are replaced by their class, silently none when none has it (Falcon)."""
    if quantization.config.get("quant_method") != "bitsandbytes":
        return
    if not any(type(parameter).__name__ in BITSANDBYTES_WEIGHTS for parameter in model.parameters()):
        raise UnsupportedFeatureError(
            f"quantization={quantization.method!r} changes no layer of {type(model).__name__}: bitsandbytes replaces "
            "torch's own linear layers, and it has none. Log it as it is."
        )


def dequantize(model: Any) -> Any:
    """The model with its quantized weights expanded to its own type; what quantizing rounded away stays lost.

    Raises:
        UnsupportedFeatureError: transformers cannot do that for this method.
    """
    method = model.config.quantization_config.quant_method
    try:
        return model.dequantize(dtype=model.dtype)
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
    """Logical parameters of the architecture: each tied one once, whatever the weights are packed into."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    return int(skeleton.num_parameters())


def _save_pretrained(model: Any, folder: Path) -> None:
    model.save_pretrained(folder)
    for file in folder.glob("*.safetensors"):  # safetensors 0.8 leaves them readable for their owner alone
        file.chmod((folder / CONFIG_FILE).stat().st_mode)


def _first_accelerator() -> str | None:
    import torch

    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found.type if found else None


def _copy_small_files(source: Path, folder: Path, *, code: bool) -> None:
    names = [CONFIG_FILE, GENERATION_CONFIG_FILE, *(file.name for file in source.glob("*.py") if code)]
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def _copy_with_progress(checkpoint: Checkpoint, folder: Path) -> None:
    from tqdm.auto import tqdm

    total = checkpoint.weight_bytes
    with tqdm(total=total, unit="B", unit_scale=True, desc="Copying weights", disable=None) as bar:
        for file in checkpoint.weight_files:
            shutil.copyfile(file, folder / file.name)
            bar.update(file.stat().st_size)
