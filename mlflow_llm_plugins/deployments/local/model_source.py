"""From a model URI to a model on this machine: resolved once, downloaded once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow_llm_plugins.deployments.local.records import ModelSource
from mlflow_llm_plugins.errors import InvalidInputError, MissingDependencyError
from mlflow_llm_plugins.lookup import did_you_mean

_PYFUNC = "python_function"
_OURS = "quantized_llm"
_OUR_LOADER = "mlflow_llm_plugins.quantized_llm"


def resolve_model(uri: str, flavor: str | None, destination: Path) -> ModelSource:
    """Find the model, and download it where it is not on this machine.

    Args:
        uri: As `mlflow models serve` takes it: a directory, `models:/`, `runs:/`, `s3://` and so on.
        flavor: That it must have; None: any that can be served.
        destination: Directory for the download; not made for a model that is in a directory of this machine already,
            which is used where it is.

    Raises:
        InvalidInputError: It is not there, cannot be served, or does not have the flavor.
        MissingDependencyError: Its store needs a package that is not installed.
    """
    try:
        resolved, path, model = _found(uri, destination)
        _check(model, uri, flavor)
    except BaseException:
        shutil.rmtree(destination, ignore_errors=True)
        raise
    own: dict[str, Any] = model.flavors.get(_OURS, {})
    is_ours = model.flavors.get(_PYFUNC, {}).get("loader_module") == _OUR_LOADER
    return ModelSource(
        uri=uri,
        resolved=resolved,
        path=path,
        flavor=flavor or _shown_flavor(model),
        is_ours=is_ours,
        quantization=(own.get("quantization") or {}).get("method") if is_ours else None,
        task=(own if is_ours else model.metadata or {}).get("task"),
    )


def _found(uri: str, destination: Path) -> tuple[str, Path, Any]:
    """What the URI means, where it is now, and MLflow's `Model`."""
    from mlflow.models import Model

    try:
        resolved = _resolved(uri)
        path = _on_this_machine(resolved, destination)
        model = Model.load(str(path))
        if not isinstance(model.flavors, Mapping):
            raise ValueError("its MLmodel names no flavors")
        return resolved, path, model
    except ImportError as error:
        raise MissingDependencyError(f"The model {uri} is in a store that needs a package: {error}") from error
    except Exception as error:  # of MLflow, of a store's library, of a damaged MLmodel; few of them name the model
        raise InvalidInputError(f"The model {uri} cannot be read: {type(error).__name__}: {error}") from error


def _resolved(uri: str) -> str:
    """With the version in place of an alias, a stage or `latest`, and no relative path."""
    from mlflow import MlflowClient
    from mlflow.store.artifact.utils.models import get_model_name_and_version

    if uri.startswith("models:/"):
        return "models:/" + "/".join(map(str, get_model_name_and_version(MlflowClient(), uri)))
    return os.path.abspath(uri) if os.path.isdir(uri) else uri


def _on_this_machine(uri: str, destination: Path) -> Path:
    from mlflow.tracking.artifact_utils import _download_artifact_from_uri

    if _is_in_a_directory(uri):
        return Path(_download_artifact_from_uri(uri)).absolute()
    destination.mkdir(mode=0o700)
    return Path(_download_artifact_from_uri(uri, output_path=str(destination))).absolute()


def _is_in_a_directory(uri: str) -> bool:
    """Whether MLflow gives the directory itself; it copies what belongs to a run in any case."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
    from mlflow.tracking.artifact_utils import _get_root_uri_and_artifact_path

    root, _ = _get_root_uri_and_artifact_path(uri)
    repository = get_artifact_repository(root)
    if not uri.startswith("runs:/"):
        repository = getattr(repository, "repo", repository)
    return isinstance(repository, LocalArtifactRepository)


def _check(model: Any, uri: str, flavor: str | None) -> None:
    if _PYFUNC not in model.flavors:
        raise InvalidInputError(
            f"The model {uri} has no flavor {_PYFUNC}, which a server needs. It has {', '.join(sorted(model.flavors))}"
            "."
        )
    if flavor is not None and flavor not in model.flavors:
        known = sorted(model.flavors)
        raise InvalidInputError(
            f"The model {uri} has no flavor {flavor!r}.{did_you_mean(flavor, known)} It has {', '.join(known)}."
        )


def _shown_flavor(model: Any) -> str:
    """The library's, which says more than `python_function`."""
    return next((name for name in sorted(model.flavors) if name != _PYFUNC), _PYFUNC)
