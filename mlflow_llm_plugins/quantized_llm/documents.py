"""Licence and model card of a checkpoint."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

_logger = logging.getLogger(__name__)

MODEL_CARD = "README.md"
DOCUMENT_PATTERNS = (MODEL_CARD, "LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")


def copy_documents(source: Path, target: Path) -> None:
    """Copy the licence, notices and the model card, those that are there."""
    for pattern in DOCUMENT_PATTERNS:
        for file in source.glob(pattern):
            if file.is_file():
                shutil.copyfile(file, target / file.name)


def license_of(folder: Path) -> str | None:
    """The licence that the model card names, for example "apache-2.0"."""
    from huggingface_hub import metadata_load

    card = folder / MODEL_CARD
    if not card.is_file():
        return None
    try:
        metadata = metadata_load(card) or {}
    except (ValueError, TypeError) as error:  # the card is the author's own writing; a bad one must not stop the log
        _logger.info("The head of %s is not readable: %s", card, error)
        return None
    found = metadata.get("license")
    if found == "other":
        found = metadata.get("license_name") or found
    names = found if isinstance(found, list) else [found]
    return ", ".join(name for name in names if isinstance(name, str)) or None
