"""API keys of deployments, and who may reach one that has none. Keys are in files that only their owner can read."""

from __future__ import annotations

import ipaddress
import os
import secrets
from collections.abc import Mapping
from typing import Any

from mlflow_llm_plugins.deployments.address import Address
from mlflow_llm_plugins.deployments.local.home import DeploymentFolder
from mlflow_llm_plugins.deployments.local.records import ModelSource, write_private
from mlflow_llm_plugins.deployments.settings import KEY, KEY_FILE, KEY_SETTINGS, DeploymentConfig
from mlflow_llm_plugins.errors import InvalidInputError, UnsupportedFeatureError

_KEY_BYTES = 32


def check_exposure(settings: DeploymentConfig) -> None:
    """Refuse to let others in without a key.

    Raises:
        InvalidInputError: Says what to set.
    """
    if not is_loopback(settings.host) and not settings.has_key and not settings.insecure:
        raise InvalidInputError(
            f"host={settings.host!r} lets everybody who reaches this machine use the model. Set generate_api_key=true "
            "or api_key_file=PATH, keep host=127.0.0.1, or set insecure=true."
        )


def config_with_keys(config: Mapping[str, Any], model: ModelSource, environ: Mapping[str, str]) -> dict[str, Any]:
    """The configuration, with the file of keys that a server of this environment would read by itself.

    Raises:
        UnsupportedFeatureError: The server of such a model asks for no key.
        InvalidInputError: A key in a place where others can read it.
    """
    settings = DeploymentConfig.parse(config, "config")
    if not model.is_ours:
        if settings.has_key:
            raise UnsupportedFeatureError(
                f"The server of a model of flavor {model.flavor} asks for no API key; quantized_llm's does. Leave "
                "api_key_file and generate_api_key out."
            )
        return dict(config)
    if KEY in environ and not settings.has_key:
        raise InvalidInputError(
            f"{KEY} is set in this shell, but a deployment reads its keys from a file: set {KEY_SETTINGS}, or unset "
            "it."
        )
    if settings.has_key or not environ.get(KEY_FILE):
        return dict(config)
    return {**config, "api_key_file": os.path.abspath(environ[KEY_FILE])}


def provide_key(folder: DeploymentFolder, settings: DeploymentConfig) -> None:
    """Make the key that was asked for, once, or look whether the given file has one.

    Raises:
        InvalidInputError: The file cannot be read, or has none.
    """
    if settings.generate_api_key and not folder.api_key.exists():
        write_private(secrets.token_urlsafe(_KEY_BYTES).encode() + b"\n", folder.api_key)
    address = Address("", is_ours=True, api_key_file=settings.api_key_file, timeout_s=0, name=folder.name)
    address.authorization()  # raises where the given file has no key


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
