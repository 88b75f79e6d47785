"""The name of an export: a digest of all that it is made of, found without the packages that make it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mlflow_llm_plugins.errors import CheckpointError
from mlflow_llm_plugins.quantized_llm.checkpoint import (
    CONFIG_FILE,
    GENERATION_CONFIG_FILE,
    INDEX_FILE,
    config_dtype,
    weight_names,
)
from mlflow_llm_plugins.quantized_llm.file_digests import FileDigests, digest_of

_EXPORTER = 2  # of what this package writes; another number makes every export anew
_PACKAGES = ("openvino", "openvino-tokenizers", "nncf", "transformers")
_DESCRIBED = ("*.json", "*.jinja", "*.model", "*.py", "*.txt", "additional_chat_templates/*.jinja")
_BESIDE_WEIGHTS = (CONFIG_FILE, GENERATION_CONFIG_FILE, INDEX_FILE, "*.py")


def export_key(
    weights: Path, described: Path, recipe: Mapping[str, Any], dtype: str | None, digests: FileDigests
) -> str:
    """Names the content of all that an export reads, and what it is made with.

    Args:
        weights: The folder of the weights, with their configuration and code.
        described: The folder of configuration and tokenizer; may be the same.
        recipe: How weights are stored.
        dtype: To load the weights with; None is the one that their configuration names.
        digests: Of the weight files.

    Raises:
        CheckpointError: There are no weights, or their configuration is damaged.
    """
    versions = {name: _version(name) for name in _PACKAGES}
    options = [_EXPORTER, versions, dict(recipe), dtype or _own_dtype(weights)]
    files = {
        "described": {name: digest_of(file) for name, file in _matching(described, _DESCRIBED)},
        "beside": {name: digest_of(file) for name, file in _matching(weights, _BESIDE_WEIGHTS)},
        "weights": {name: digests.of(weights / name) for name in weight_names(weights) if (weights / name).is_file()},
    }
    return hashlib.blake2b(json.dumps([options, files], sort_keys=True).encode(), digest_size=16).hexdigest()


def _matching(folder: Path, patterns: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    for pattern in patterns:
        for file in folder.glob(pattern):
            if file.is_file():
                yield file.relative_to(folder).as_posix(), file


def _own_dtype(weights: Path) -> str | None:
    """What config.json names; where it names none, the weights themselves tell."""
    file = weights / CONFIG_FILE
    if not file.is_file():
        return None
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        return config_dtype(config)
    except (ValueError, AttributeError) as error:  # no JSON, or no table
        raise CheckpointError(f"{file} is damaged: {error}. Copy or download it again.") from error


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
