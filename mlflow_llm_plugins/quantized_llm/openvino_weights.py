"""OpenVINO models into an artifact: exported from torch weights, or taken as they are from a folder that has one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow_llm_plugins.errors import CheckpointError
from mlflow_llm_plugins.generation.openvino.ir_files import MODEL_FILE, TOKENIZER_FILES, WEIGHTS_FILE
from mlflow_llm_plugins.openai_api.decisions.temperatures import DECISION_CONFIG
from mlflow_llm_plugins.quantized_llm.checkpoint import CONFIG_FILE, GENERATION_CONFIG_FILE
from mlflow_llm_plugins.quantized_llm.openvino_export.export import ExportReport, export_model
from mlflow_llm_plugins.quantized_llm.openvino_export.files import convert_tokenizer
from mlflow_llm_plugins.quantized_llm.openvino_recipes import recipe_of
from mlflow_llm_plugins.quantized_llm.quantization import Quantization
from mlflow_llm_plugins.quantized_llm.source import ModelSource
from mlflow_llm_plugins.quantized_llm.weights import Placement, checkpoint_of, load_weights


def export(source: ModelSource, folder: Path, quantization: Quantization, dtype: str | None) -> ExportReport:
    """Export a source into an empty folder.

    Args:
        source: Not changed.
        folder: Empty.
        quantization: One of OpenVINO's methods.
        dtype: To load the weights with before; None is their own.

    Raises:
        CheckpointError: The folder cannot be written.
        LLMError: The model cannot be exported, or its weights cannot be loaded.
    """
    with _torch_model(source, dtype) as model:
        try:
            report = export_model(model, source.tokenizer, folder, recipe_of(quantization.config))
        except OSError as error:
            raise CheckpointError(f"The OpenVINO model cannot be written: {error}. Free space there.") from error
    if source.folder and (source.folder / DECISION_CONFIG).is_file():
        shutil.copyfile(source.folder / DECISION_CONFIG, folder / DECISION_CONFIG)
    return report


def copy_openvino(source: Path, folder: Path, tokenizer: Any, *, staged: bool, renew_tokenizer: bool = False) -> None:
    """Copy an OpenVINO model with its configuration; a tokenizer model that it lacks or has by halves is made.

    Where it cannot be made, a warning says what will not work.

    Args:
        source: The folder with openvino_model.xml.
        folder: Where to.
        tokenizer: What a tokenizer model is made of, where it has none.
        staged: `folder` is itself copied and deleted soon, so a link to the weights does.
        renew_tokenizer: Make the tokenizer's model anew though there is one.
    """
    has_tokenizer = not renew_tokenizer and all((source / name).is_file() for name in TOKENIZER_FILES)
    tokenizer_files = TOKENIZER_FILES if has_tokenizer else ()
    for name in (MODEL_FILE, CONFIG_FILE, GENERATION_CONFIG_FILE, DECISION_CONFIG, *tokenizer_files):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    if staged:
        (folder / WEIGHTS_FILE).symlink_to((source / WEIGHTS_FILE).resolve())
    else:
        shutil.copyfile(source / WEIGHTS_FILE, folder / WEIGHTS_FILE)
    if not has_tokenizer and (models := convert_tokenizer(tokenizer)):
        models.save(folder)


@contextmanager
def _torch_model(source: ModelSource, dtype: str | None) -> Iterator[Any]:
    """The source as a model on the CPU; one in memory that is there already is not loaded once more."""
    model = source.model
    if model is not None and model.device.type == "cpu" and dtype in (None, source.dtype):
        yield model
        return
    with checkpoint_of(source) as checkpoint:
        placement = Placement(device_map="cpu", dtype=dtype or source.dtype or checkpoint.dtype)
        yield load_weights(checkpoint, placement, trust_remote_code=source.trust_remote_code)
