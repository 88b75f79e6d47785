"""The stock command, and the environment of a server."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from mlflow_llm_plugins.deployments.local.home import DeploymentFolder
from mlflow_llm_plugins.deployments.local.server.command import serve_command, serve_environment
from mlflow_llm_plugins.deployments.local.specs import first_spec

FOLDER = DeploymentFolder(Path("/state/deployments/chat"))
KEYS = {"MLFLOW_LLM_API_KEY": "secret", "MLFLOW_LLM_API_KEY_FILE": "/keys"}


@pytest.fixture
def spec(model):
    """A spec with this configuration."""
    return lambda is_ours=True, **config: first_spec("chat", config).model_copy(
        update={"model": model.model_copy(update={"is_ours": is_ours})}
    )


def test_the_command_is_mlflows_own_on_the_loopback_interface(spec, model):
    command = serve_command(spec(workers=2, env_manager="uv", request_timeout_s=1.5, host="0.0.0.0", port=80), 4711)
    assert command == [
        *[sys.executable, "-m", "mlflow", "models", "serve", "-m", str(model.path), "--env-manager", "uv"],
        *["-h", "127.0.0.1", "-p", "4711", "-w", "2", "--timeout", "2"],
    ]


def test_uvicorn_is_found_by_its_name_and_says_all_at_once(spec):
    environment = serve_environment(spec(), FOLDER, {"PATH": "/bin", "HOME": "/me"})
    assert environment["PATH"] == os.pathsep.join([os.path.dirname(sys.executable), "/bin"])
    assert environment["PYTHONUNBUFFERED"] == "1"
    assert environment["HOME"] == "/me"


def test_ours_is_told_its_limits_exactly(spec):
    environment = serve_environment(spec(drain_timeout_s=2.5, request_timeout_s=1.25), FOLDER, {})
    assert environment["MLFLOW_LLM_DRAIN_TIMEOUT_S"] == "2.5"
    assert environment["MLFLOW_LLM_REQUEST_TIMEOUT_S"] == "1.25"
    assert "UVICORN_TIMEOUT_GRACEFUL_SHUTDOWN" not in environment


def test_the_server_of_another_flavor_drains_within_a_bound(spec):
    environment = serve_environment(spec(is_ours=False, drain_timeout_s=2.5), FOLDER, {})
    assert environment["UVICORN_TIMEOUT_GRACEFUL_SHUTDOWN"] == "3"
    assert not [name for name in environment if name.startswith("MLFLOW_LLM_")]


def test_model_config_and_devices_are_passed_on_when_they_are_set(spec):
    environment = serve_environment(spec(model_config='{"max_batch_size": 4}', devices=[0, 1]), FOLDER, {})
    assert environment["SERVING_MODEL_CONFIG"] == '{"max_batch_size": 4}'
    assert environment["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert not {"SERVING_MODEL_CONFIG", "CUDA_VISIBLE_DEVICES"} & set(serve_environment(spec(), FOLDER, {}))
    assert serve_environment(spec(devices=""), FOLDER, {"CUDA_VISIBLE_DEVICES": "3"})["CUDA_VISIBLE_DEVICES"] == "3"


@pytest.mark.parametrize(
    ("config", "file"), [({"api_key_file": "/mine"}, "/mine"), ({"generate_api_key": True}, str(FOLDER.api_key))]
)
def test_a_deployment_with_keys_of_its_own_takes_no_others(spec, config, file):
    environment = serve_environment(spec(**config), FOLDER, KEYS)
    assert environment["MLFLOW_LLM_API_KEY_FILE"] == file
    assert "MLFLOW_LLM_API_KEY" not in environment


def test_keys_of_the_shell_are_kept_where_the_deployment_has_none(spec):
    assert KEYS.items() <= serve_environment(spec(), FOLDER, KEYS).items()


def test_the_environment_of_the_deployment_wins(spec):
    own = {"MLFLOW_LLM_REQUEST_TIMEOUT_S": "7", "HOME": "/other"}
    assert own.items() <= serve_environment(spec(environment=own), FOLDER, {"HOME": "/me"}).items()
