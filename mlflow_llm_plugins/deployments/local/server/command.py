"""How a server is started: the stock command of MLflow, and the environment that it gets."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Mapping

from mlflow_llm_plugins.deployments.local.home import DeploymentFolder
from mlflow_llm_plugins.deployments.local.records import Spec
from mlflow_llm_plugins.deployments.settings import KEY, KEY_FILE, DeploymentConfig

CommandOf = Callable[[Spec, int], list[str]]


def serve_command(spec: Spec, port: int) -> list[str]:
    """Stock `mlflow models serve` of the spec's model on a port of the loopback interface."""
    assert spec.model is not None  # the command that starts a supervisor has seen to it
    settings = spec.settings
    return [
        *[sys.executable, "-m", "mlflow", "models", "serve"],
        *["-m", str(spec.model.path)],
        *["--env-manager", settings.env_manager],
        *["-h", "127.0.0.1", "-p", str(port)],
        *["-w", str(settings.workers)],
        *["--timeout", str(math.ceil(settings.request_timeout_s))],
    ]


def serve_environment(spec: Spec, folder: DeploymentFolder, base: Mapping[str, str]) -> dict[str, str]:
    """The environment of the spec's server.

    Args:
        spec: Its own `environment` wins over all the rest.
        folder: Where a generated API key is.
        base: What the supervisor was started with.
    """
    settings = spec.settings
    is_ours = spec.model is not None and spec.model.is_ours
    return {
        **_without_keys(base, settings),
        # MLflow starts `uvicorn` by name.
        "PATH": os.pathsep.join([os.path.dirname(sys.executable), base.get("PATH", os.defpath)]),
        "PYTHONUNBUFFERED": "1",
        **({"SERVING_MODEL_CONFIG": json.dumps(settings.serving_config)} if settings.serving_config else {}),
        **({"CUDA_VISIBLE_DEVICES": settings.devices} if settings.devices is not None else {}),
        **(_for_ours(settings, folder) if is_ours else _for_others(settings)),
        **{name: value for name, value in settings.environment.items() if value is not None},
    }


def _without_keys(base: Mapping[str, str], settings: DeploymentConfig) -> dict[str, str]:
    """A deployment with keys of its own takes no others."""
    return {name: value for name, value in base.items() if not (settings.has_key and name in (KEY, KEY_FILE))}


def _for_ours(settings: DeploymentConfig, folder: DeploymentFolder) -> dict[str, str]:
    limits = {
        "MLFLOW_LLM_DRAIN_TIMEOUT_S": str(settings.drain_timeout_s),
        "MLFLOW_LLM_REQUEST_TIMEOUT_S": str(settings.request_timeout_s),
    }
    key_file = folder.key_file(settings)
    return limits if key_file is None else {**limits, KEY_FILE: str(key_file)}


def _for_others(settings: DeploymentConfig) -> dict[str, str]:
    """Their server is uvicorn's alone, which waits for open requests without end unless told otherwise."""
    return {"UVICORN_TIMEOUT_GRACEFUL_SHUTDOWN": str(int(settings.drain_timeout_s) + 1)}
