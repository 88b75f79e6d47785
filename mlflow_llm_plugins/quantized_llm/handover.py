"""Weights that were just written go into the artifact store by a move, where MLflow would copy them."""

from __future__ import annotations

import shutil
from pathlib import Path

from mlflow.models import Model

from mlflow_llm_plugins.generation.openvino.ir_files import WEIGHTS_FILE

WEIGHT_PATTERNS = ("*.safetensors", WEIGHTS_FILE)
# These registries upload the folder itself, so it must stay whole.
UPLOADING_REGISTRIES = ("databricks", "uc:")


def hand_over_weights(folder: Path, mlflow_model: Model) -> None:
    """Move weights to where `Model.log` is about to copy them, if that is a folder of this machine.

    It copies what is left into the same place and deletes the folder, so gigabytes are written once, not twice.

    Args:
        folder: The model folder inside the one that `Model.log` gave. Links in it are left to be followed.
        mlflow_model: Knows where the artifacts go.
    """
    artifacts = _local_artifacts(mlflow_model)
    if artifacts is None:
        return
    target = artifacts / folder.name
    target.mkdir(parents=True, exist_ok=True)
    for pattern in WEIGHT_PATTERNS:
        for file in folder.glob(pattern):
            if not file.is_symlink():
                shutil.move(file, target / file.name)


def _local_artifacts(mlflow_model: Model) -> Path | None:
    import mlflow
    from mlflow.utils.file_utils import local_file_uri_to_path
    from mlflow.utils.uri import is_local_uri

    location = mlflow_model.artifact_path
    if not location or not is_local_uri(location, is_tracking_or_registry_uri=False):
        return None
    if mlflow.get_registry_uri().startswith(UPLOADING_REGISTRIES):
        return None
    return Path(local_file_uri_to_path(location))
