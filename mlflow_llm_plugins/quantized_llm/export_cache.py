"""Exports of ordinary weights for the engine `openvino`: each is made once a machine, and kept under a bound.

An entry is a folder named by the content that it was made of. It appears whole or not at all, is made by one process
while others wait, and stays while a process uses it; of the others those go first that were used longest ago.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from mlflow_llm_plugins.errors import CheckpointError, InvalidInputError
from mlflow_llm_plugins.quantized_llm.artifact import Artifact
from mlflow_llm_plugins.quantized_llm.checkpoint import CONFIG_FILE, GENERATION_CONFIG_FILE, weight_names
from mlflow_llm_plugins.quantized_llm.openvino_recipes import recipe_of, require_export_packages
from mlflow_llm_plugins.quantized_llm.quantization import Quantization
from mlflow_llm_plugins.quantized_llm.record import MODEL_FOLDER

_logger = logging.getLogger(__name__)

FOLDER_VARIABLE, BYTES_VARIABLE = "MLFLOW_LLM_EXPORT_CACHE", "MLFLOW_LLM_EXPORT_CACHE_BYTES"
DEFAULT_BYTES = 50 * 2**30
_FORMAT = 1  # of what an export writes; another one makes every entry anew
_PATIENCE_S = 3600.0  # for another process that exports the same
_CHUNK = 2**22
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", GENERATION_CONFIG_FILE)
_USERS = ".users"  # a folder of an entry: an empty file for each process that has used it, named by pid and start


def exported(
    artifact: Artifact, quantization: Quantization | None, dtype: str | None, trust_remote_code: bool
) -> Path:
    """The folder of an artifact's weights as an OpenVINO model, exported if it is not there yet.

    Args:
        artifact: With ordinary weights.
        quantization: One of OpenVINO's methods; None keeps the weights as they are.
        dtype: To load the weights with before; None is their own.
        trust_remote_code: Whether Python code of the checkpoint may run.

    Raises:
        LLMError: The export cannot be made; nothing is left of it.
    """
    recipe = dict(quantization.config) if quantization else {"weight_format": "none"}
    weights = artifact.weights_folder()
    key = _key(weights, artifact.path / MODEL_FOLDER, {"recipe": recipe, "dtype": dtype})
    root = cache_folder()
    root.mkdir(parents=True, exist_ok=True)
    entry = root / key
    with _locked(root / f"{key}.lock"):
        if not entry.is_dir():
            require_export_packages("The engine 'openvino' on weights that are no OpenVINO model")
            with _appearing(entry) as folder:
                _export(artifact, weights, folder, recipe, dtype, trust_remote_code)
            _tell(entry, root)
        _use(entry)
    _keep_under(root, cache_bytes(), but=entry)
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
) -> None:
    from mlflow_llm_plugins.quantized_llm.checkpoint import Checkpoint, read_config
    from mlflow_llm_plugins.quantized_llm.openvino_export.export import check_exportable, export_model
    from mlflow_llm_plugins.quantized_llm.tokenizer import load_tokenizer
    from mlflow_llm_plugins.quantized_llm.weights import Placement, load_weights

    source = artifact.path / MODEL_FOLDER
    check_exportable(read_config(source))
    tokenizer = load_tokenizer(source, name=str(source), trust_remote_code=trust_remote_code)
    checkpoint = Checkpoint.open(weights)
    wanted = dtype or artifact.record.dtype or checkpoint.dtype
    model = load_weights(checkpoint, Placement(device_map="cpu", dtype=wanted), trust_remote_code=trust_remote_code)
    export_model(model, tokenizer, folder, recipe_of(recipe))
    defaults = source / GENERATION_CONFIG_FILE
    if defaults.is_file():
        shutil.copyfile(defaults, folder / GENERATION_CONFIG_FILE)


def _key(weights: Path, described: Path, options: Mapping[str, Any]) -> str:
    """Names the content of all that an export reads."""
    digest = hashlib.blake2b(json.dumps([_FORMAT, options], sort_keys=True).encode(), digest_size=16)
    files = [described / name for name in (CONFIG_FILE, *_TOKENIZER_FILES)]
    for file in [*files, *(weights / name for name in weight_names(weights))]:
        digest.update(f"\0{file.name}\0".encode())
        if file.is_file():
            _add(digest, file)
    return digest.hexdigest()


def _add(digest: Any, file: Path) -> None:
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    try:
        with FileLock(file, timeout=_PATIENCE_S):
            yield
    except Timeout as error:
        raise CheckpointError(
            f"Another process has been exporting the same model for an hour, it seems: {file} is locked. End it, or "
            f"set {FOLDER_VARIABLE} to another folder."
        ) from error


@contextmanager
def _appearing(entry: Path) -> Iterator[Path]:
    """A new folder that becomes the entry when the block is over; nothing is left where it fails."""
    unfinished = entry.with_name(f".{entry.name}")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed: the lock is ours
    unfinished.mkdir()
    try:
        yield unfinished
        os.replace(unfinished, entry)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _tell(entry: Path, root: Path) -> None:
    entries = _entries(root)
    _logger.warning(
        "Exported the model for the engine 'openvino' into %s (%.0f MB). %d models there take %.2f of at most %.0f "
        "GB; %s sets the bound. Log the model with quantization='openvino-int8' or another one to have it exported "
        "in the artifact.",
        entry,
        _bytes_of(entry) / 1e6,
        len(entries),
        sum(map(_bytes_of, entries)) / 1e9,
        cache_bytes() / 1e9,
        BYTES_VARIABLE,
    )


def _use(entry: Path) -> None:
    users = entry / _USERS
    users.mkdir(exist_ok=True)
    process = psutil.Process()
    (users / f"{process.pid}-{process.create_time():.2f}").touch()
    os.utime(entry)


def _keep_under(root: Path, most: int, but: Path) -> None:
    """Remove entries, those first that were used longest ago, until the rest is no larger than `most` bytes."""
    sizes = {entry: _bytes_of(entry) for entry in sorted(_entries(root), key=lambda entry: entry.stat().st_mtime)}
    for entry, size in sizes.items():
        if sum(sizes.values()) <= most:
            return
        if entry != but and _remove(root, entry):
            _logger.info("Removed the export %s (%.0f MB) to stay under %d bytes.", entry, size / 1e6, most)
            sizes[entry] = 0


def _remove(root: Path, entry: Path) -> bool:
    """Remove an entry that nobody uses; whether it is gone."""
    try:
        with FileLock(root / f"{entry.name}.lock", timeout=0):
            if any(_is_alive(user.name) for user in (entry / _USERS).glob("*")):
                return False
            shutil.rmtree(entry, ignore_errors=True)
    except Timeout:
        return False
    return True


def _is_alive(user: str) -> bool:
    pid, _, started = user.partition("-")
    try:
        return f"{psutil.Process(int(pid)).create_time():.2f}" == started
    except (psutil.Error, ValueError):
        return False


def _entries(root: Path) -> list[Path]:
    return [path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]


def _bytes_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
