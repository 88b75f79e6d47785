"""Exports of ordinary weights for the engine `openvino`: each is made once a machine, and kept under a bound."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import Timeout

from mlflow_llm_plugins.errors import CheckpointError, InvalidInputError, LLMError
from mlflow_llm_plugins.quantized_llm.artifact import Artifact
from mlflow_llm_plugins.quantized_llm.checkpoint import GENERATION_CONFIG_FILE
from mlflow_llm_plugins.quantized_llm.export_key import export_key
from mlflow_llm_plugins.quantized_llm.file_digests import FileDigests
from mlflow_llm_plugins.quantized_llm.folder_cache import FolderCache
from mlflow_llm_plugins.quantized_llm.openvino_recipes import recipe_of, require_export_packages
from mlflow_llm_plugins.quantized_llm.quantization import Quantization
from mlflow_llm_plugins.quantized_llm.record import MODEL_FOLDER

if TYPE_CHECKING:
    from mlflow_llm_plugins.quantized_llm.openvino_export.export import ExportReport

_logger = logging.getLogger(__name__)

FOLDER_VARIABLE, BYTES_VARIABLE = "MLFLOW_LLM_EXPORT_CACHE", "MLFLOW_LLM_EXPORT_CACHE_BYTES"
DEFAULT_BYTES = 50 * 2**30
REPORT_FILE = "export.json"  # of an entry: how it was made, and what its proof showed
_DIGESTS_FILE = "digests.json"  # of the cache: of the weight files that were read


def exported(
    artifact: Artifact, quantization: Quantization | None, dtype: str | None, trust_remote_code: bool
) -> Path:
    """The folder of an artifact's weights as an OpenVINO model, exported if it is not there yet.

    It stays as long as this process lives. One that is there is found without torch, transformers, openvino and nncf.

    Args:
        artifact: With ordinary weights.
        quantization: One of OpenVINO's methods; None keeps the weights as they are.
        dtype: To load the weights with before; None is their own.
        trust_remote_code: Whether Python code of the checkpoint may run.

    Raises:
        CheckpointError: The cache cannot be written.
        InvalidInputError: The bound of the cache is no whole number.
        LLMError: The export cannot be made; nothing is left of it.
    """
    most_bytes = cache_bytes()  # before weights are fetched
    recipe = dict(quantization.config) if quantization else {"weight_format": "none"}
    dtype = dtype or artifact.record.dtype
    weights, root = artifact.weights_folder(), cache_folder()
    made: list[ExportReport] = []

    def make(folder: Path) -> None:
        require_export_packages("The engine 'openvino' on weights that are no OpenVINO model")
        made.append(_export(artifact, weights, folder, recipe, dtype, trust_remote_code))

    with _explained(root):
        cache = FolderCache(root, most_bytes)
        key = export_key(weights, artifact.path / MODEL_FOLDER, recipe, dtype, FileDigests(root / _DIGESTS_FILE))
        entry = cache.entry(key, f"the export of {artifact.path} for the engine 'openvino'", make)
        for report in made:
            _tell(report, entry, cache)
    return entry


def cache_folder() -> Path:
    """Where exports are kept: MLFLOW_LLM_EXPORT_CACHE, else the user's cache folder."""
    import platformdirs

    given = os.environ.get(FOLDER_VARIABLE, "").strip()
    return Path(given or platformdirs.user_cache_dir("mlflow-llm-plugins")).expanduser().absolute() / "openvino"


def cache_bytes() -> int:
    """What they may take: MLFLOW_LLM_EXPORT_CACHE_BYTES, else 50 GiB.

    Raises:
        InvalidInputError: The variable is no whole number.
    """
    given = os.environ.get(BYTES_VARIABLE, "").strip()
    if given and not given.isdecimal():
        raise InvalidInputError(f"{BYTES_VARIABLE} must be a whole number of bytes, got {given!r}.")
    return int(given) if given else DEFAULT_BYTES


def _export(
    artifact: Artifact,
    weights: Path,
    folder: Path,
    recipe: Mapping[str, Any],
    dtype: str | None,
    trust_remote_code: bool,
) -> ExportReport:
    from mlflow_llm_plugins.quantized_llm.checkpoint import Checkpoint, read_config
    from mlflow_llm_plugins.quantized_llm.openvino_export.export import check_exportable, export_model
    from mlflow_llm_plugins.quantized_llm.tokenizer import load_tokenizer
    from mlflow_llm_plugins.quantized_llm.weights import Placement, load_weights

    source = artifact.path / MODEL_FOLDER
    check_exportable(read_config(source))
    tokenizer = load_tokenizer(source, name=str(source), trust_remote_code=trust_remote_code)
    checkpoint = Checkpoint.open(weights)
    placement = Placement(device_map="cpu", dtype=dtype or checkpoint.dtype)
    model = load_weights(checkpoint, placement, trust_remote_code=trust_remote_code)
    report = export_model(model, tokenizer, folder, recipe_of(recipe))
    defaults = source / GENERATION_CONFIG_FILE
    if defaults.is_file():
        shutil.copyfile(defaults, folder / GENERATION_CONFIG_FILE)
    (folder / REPORT_FILE).write_text(json.dumps(dataclasses.asdict(report), indent=1), encoding="utf-8")
    return report


@contextmanager
def _explained(root: Path) -> Iterator[None]:
    """What the file system refuses, with what to do."""
    try:
        yield
    except Timeout as error:
        raise CheckpointError(
            f"Another process has been exporting the same model for an hour, it seems: {error.lock_file} is locked. "
            f"End it, or set {FOLDER_VARIABLE} to another folder."
        ) from error
    except OSError as error:
        if isinstance(error, LLMError):
            raise
        raise CheckpointError(
            f"The model cannot be exported into {root}: {error}. Free space there, or set {FOLDER_VARIABLE} to a "
            "folder that can be written."
        ) from error


def _tell(report: ExportReport, entry: Path, cache: FolderCache) -> None:
    sizes = cache.sizes()
    _logger.warning(
        "Exported the model for the engine 'openvino' into %s (%.0f MB) in %.0f s; its log-probabilities differ by at "
        "most %.2g from torch's (%s has more). %d models there take %.2f of at most %.0f GB; %s sets the bound. Log "
        "the model with quantization='openvino-int8' or another one to have it exported in the artifact.",
        entry,
        report.weight_bytes / 1e6,
        report.seconds,
        report.probe.max_difference,
        REPORT_FILE,
        len(sizes),
        sum(sizes) / 1e9,
        cache_bytes() / 1e9,
        BYTES_VARIABLE,
    )
