"""A folder that has an OpenVINO model already, ours or another exporter's."""

from __future__ import annotations

from pathlib import Path

from mlflow_llm_plugins.errors import CheckpointError
from mlflow_llm_plugins.generation.openvino.ir_description import IRDescription, describe_ir
from mlflow_llm_plugins.generation.openvino.ir_files import CONFIG_FILE, MODEL_FILE, WEIGHTS_FILE

_FILES = (MODEL_FILE, WEIGHTS_FILE, CONFIG_FILE)


def is_openvino_folder(path: Path) -> bool:
    """Whether the folder has the files of an OpenVINO model: its graph, its weights and config.json."""
    return all((path / name).is_file() for name in _FILES)


def describe(path: Path) -> IRDescription:
    """What the model's graph says of it; openvino is not imported and no weight is read.

    Raises:
        CheckpointError: A file is missing, damaged or cut off, or the model is no stateful causal language model.
    """
    missing = [name for name in _FILES if not (path / name).is_file()]
    if missing:
        raise CheckpointError(f"{path} is no folder of an OpenVINO model: it has no {', no '.join(missing)}.")
    found = describe_ir(path / MODEL_FILE)
    _check_weights(path / WEIGHTS_FILE, found.bin_bytes)
    return found


def _check_weights(file: Path, needed: int) -> None:
    if (size := file.stat().st_size) < needed:
        raise CheckpointError(
            f"{file} is damaged: it has {size:,} bytes, and the graph beside it needs {needed:,}. Copy or download it "
            "again."
        )
