"""Checkpoints on the Hugging Face Hub: commits, downloads, and refusals in words that say what to do.

Everything goes through the local cache, so what is there works offline. A token is huggingface_hub's business
(`HF_TOKEN` or `hf auth login`); it never passes through here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mlflow_llm_plugins.errors import AccessDeniedError, CheckpointError, InvalidInputError
from mlflow_llm_plugins.quantized_llm.checkpoint import (
    CONFIG_FILE,
    GENERATION_CONFIG_FILE,
    INDEX_FILE,
    TORCH_DTYPES,
    WEIGHTS_FILE,
    Checkpoint,
    has_weights,
    weight_names,
)

COMMIT = re.compile(r"[0-9a-f]{40}")
# All that a checkpoint has beside its weights; the weights' names come from the index among them.
DESCRIPTION_PATTERNS = ("*.json", "*.jinja", "*.model", "*.txt", "*.md", "LICENSE*", "LICENCE*", "NOTICE*")
CODE_PATTERN = "*.py"
OTHER_FORMATS = ["original/*", "onnx/*", "openvino/*", "gguf/*"]  # folders with the same model once more


@dataclass(frozen=True, slots=True)
class HubRepo:
    """A repository at one commit."""

    repo_id: str
    commit: str | None  # None: not known, for a model that was loaded in some other way


def is_repo_id(name: str) -> bool:
    """Whether the string has the form of a Hub id: "name" or "organisation/name"."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def download_description(repo_id: str, revision: str | None, *, code: bool = False) -> tuple[HubRepo, Path]:
    """Fetch everything but the weights, and pin the revision.

    Args:
        repo_id: For example "org/name".
        revision: A branch, tag or commit; None is the default branch.
        code: Also the model's own Python files.

    Returns:
        The repository at its commit, and the folder in the local cache.

    Raises:
        AccessDeniedError: Private, gated, or a token that is missing or wrong.
        InvalidInputError: No such repository or revision.
        CheckpointError: The Hub cannot be reached and the cache does not have it.
    """
    from huggingface_hub.errors import IncompleteSnapshotError

    patterns = [*DESCRIPTION_PATTERNS, *([CODE_PATTERN] if code else [])]
    try:
        folder = _snapshot(repo_id, revision, patterns)
    except CheckpointError as error:  # offline, where a cache filled by transformers lacks only the documents
        if not isinstance(error.__cause__, IncompleteSnapshotError):
            raise
        folder = Path(error.__cause__.snapshot_path)
    return HubRepo(repo_id, folder.name), folder


def open_checkpoint(repo_id: str, commit: str | None, *, code: bool = False) -> Checkpoint:
    """Fetch the safetensors of a repository at a commit, with `code` also the model's own Python files.

    Raises:
        CheckpointError: It has none, or they are damaged; otherwise as `download_description`.
    """
    beside = [CONFIG_FILE, GENERATION_CONFIG_FILE, INDEX_FILE, *([CODE_PATTERN] if code else [])]
    folder = _snapshot(repo_id, commit, beside)
    names = weight_names(folder) if (folder / INDEX_FILE).is_file() else [WEIGHTS_FILE]
    folder = _snapshot(repo_id, commit, names)
    if not has_weights(folder):
        raise CheckpointError(_no_safetensors(repo_id, commit))
    return Checkpoint.open(folder)


def weights_header(repo: HubRepo) -> tuple[str, int]:
    """Type and size in bytes of a repository's safetensors, from their headers alone.

    Raises:
        CheckpointError: It has no safetensors; otherwise as `download_description`.
    """
    from huggingface_hub import get_safetensors_metadata
    from huggingface_hub.errors import NotASafetensorsRepoError, SafetensorsParsingError

    try:
        with _explained(repo.repo_id, repo.commit):
            metadata = get_safetensors_metadata(repo.repo_id, revision=repo.commit)
    except (NotASafetensorsRepoError, SafetensorsParsingError) as error:
        raise CheckpointError(_no_safetensors(repo.repo_id, repo.commit)) from error
    tensors = [tensor for file in metadata.files_metadata.values() for tensor in file.tensors.values()]
    dtype = next((TORCH_DTYPES[tensor.dtype] for tensor in tensors if tensor.dtype in TORCH_DTYPES), "float32")
    return dtype, sum(tensor.data_offsets[1] - tensor.data_offsets[0] for tensor in tensors)


def cached(repo_id: str, revision: str | None) -> tuple[HubRepo, Path | None]:
    """What the local cache knows of a repository at a revision, and its folder there; never asks the Hub."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(repo_id, revision=revision, allow_patterns=[], local_files_only=True))
    except LocalEntryNotFoundError:
        return HubRepo(repo_id, revision if COMMIT.fullmatch(revision or "") else None), None
    return HubRepo(repo_id, folder.name), folder


def cached_commit(repo_id: str) -> str | None:
    """The commit that the local cache holds of a repository; None unless it is exactly one."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    snapshots = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repo_id, repo_type="model"), "snapshots")
    commits = [folder.name for folder in snapshots.iterdir()] if snapshots.is_dir() else []
    return commits[0] if len(commits) == 1 else None


def _snapshot(repo_id: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import OfflineModeIsEnabled

    download = partial(
        snapshot_download, repo_id, revision=revision, allow_patterns=patterns, ignore_patterns=OTHER_FORMATS
    )
    with _explained(repo_id, revision):
        try:
            return Path(download())
        except OfflineModeIsEnabled:  # huggingface_hub 1 does not turn to its cache then
            return Path(download(local_files_only=True))


@contextmanager
def _explained(repo_id: str, revision: str | None) -> Iterator[None]:
    from huggingface_hub import errors

    page = f"https://huggingface.co/{repo_id}"
    try:
        yield
    except errors.GatedRepoError as error:
        raise AccessDeniedError(
            f"{repo_id!r} is gated. Accept its terms on {page} with your account, then set HF_TOKEN to a token "
            "of that account or run `hf auth login`."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise _missing_or_private(error, repo_id, page) from error
    except errors.RevisionNotFoundError as error:
        raise InvalidInputError(
            f"{repo_id!r} has no revision {revision!r}. {page}/commits/main lists branches, tags and commits."
        ) from error
    except (errors.LocalEntryNotFoundError, errors.HfHubHTTPError, errors.OfflineModeIsEnabled) as error:
        if (status := _status(error)) in (401, 403):
            raise AccessDeniedError(
                f"The Hub refused {repo_id!r} ({status}). See {page}: accept its terms if it has any, and set "
                "HF_TOKEN to a token that may read it."
            ) from error
        raise CheckpointError(
            f"{repo_id!r} at revision {revision or 'main'!r} is not in the local cache, and the Hub cannot be "
            f"reached: {_first_line(error)} Check the id and the network, or unset HF_HUB_OFFLINE."
        ) from error


def _status(error: BaseException | None) -> int | None:
    """The HTTP status that an error is about; where the cache was tried next, it is that of the cause."""
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code if error.response is not None else None
    return _status(error.__cause__) if error else None


def _no_safetensors(repo_id: str, commit: str | None) -> str:
    return (
        f"{repo_id!r} at {commit} has no safetensors ({WEIGHTS_FILE} or {INDEX_FILE}); other formats, such as "
        ".bin, can run code when they are read. Choose a revision or a repository that has them."
    )


def _missing_or_private(error: Exception, repo_id: str, page: str) -> AccessDeniedError:
    """The Hub answers 401 for both, so as not to tell which private repositories exist."""
    return AccessDeniedError(
        f"The Hub has no repository {repo_id!r}, or it is private. Check the id on {page}; for a private one set "
        "HF_TOKEN to a token that may read it."
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
