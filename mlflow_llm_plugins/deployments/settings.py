"""What a deployment and an endpoint can be told, as keys of `config` or as `-C key=value`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator
from pydantic_core import PydanticSerializationError
from typing_extensions import Self

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.settings import Settings

KEY, KEY_FILE = "MLFLOW_LLM_API_KEY", "MLFLOW_LLM_API_KEY_FILE"  # of the server of a quantized LLM
KEY_SETTINGS = "api_key_file=PATH or generate_api_key=true"

_MOST = 1e9  # of a share of traffic


def _object(value: object) -> object:
    """A JSON object or `a=1,b=2` as a dictionary, which is what a command line can say."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if not text.startswith("{"):
        pairs = [item.partition("=") for item in text.split(",") if item.strip()]
        if not all(separator for _, separator, _ in pairs):
            raise ValueError('must be a JSON object such as {"a": 1}, or a=1,b=2')
        found = {name.strip(): item.strip() for name, _, item in pairs}
        if len(found) < len(pairs):
            raise ValueError("one of the names stands there twice")
        return found
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f'must be a JSON object such as {{"a": 1}}, or a=1,b=2 ({error})') from None


def _texts(value: object) -> object:
    found = _object(value)
    if not isinstance(found, Mapping):
        return found
    try:
        return {
            name: item if item is None or isinstance(item, str) else json.dumps(item) for name, item in found.items()
        }
    except TypeError:
        raise ValueError("values must be strings, or what JSON can hold") from None


def _without_empty(raw: Any) -> Any:
    """Keys without a value (`-C port=`, or None) count as not given."""
    if not isinstance(raw, Mapping):
        return raw
    return {key: value for key, value in raw.items() if value is not None and value != ""}


Texts = Annotated[dict[str, str | None], BeforeValidator(_texts)]  # null, in an update: not any more


class DeploymentConfig(Settings):
    """How one deployment is run. Strings are read as a command line gives them."""

    UNSHOWN = frozenset({"environment"})

    port: int | None = Field(
        None, ge=1, le=65535, description="Port that clients connect to; by default a free one, kept for its life."
    )
    host: str = Field("127.0.0.1", description="Address to listen on. One that others can reach needs an API key.")
    env_manager: Literal["local", "virtualenv", "uv", "conda"] = Field(
        "local", description="Where the server's packages come from: this environment, or one made for the model."
    )
    workers: int = Field(1, ge=1, description="Server processes, each with a copy of the model.")
    serving_config: Annotated[dict[str, Any], BeforeValidator(_object)] = Field(
        {},
        alias="model_config",
        description="The model's own settings, a JSON object: for a quantized LLM the engine's, and `quantization`.",
    )
    api_key_file: Path | None = Field(None, description="File with the API keys that clients must send, one a line.")
    generate_api_key: bool = Field(False, description="Make an API key and keep it in a file that only you can read.")
    insecure: bool = Field(False, description="Allow an address that others can reach without an API key.")
    strategy: Literal["blue_green", "recreate"] = Field(
        "blue_green",
        description="How an update replaces the server: the new one beside the old one, or after it, where memory "
        "does not allow two.",
    )
    ready_timeout_s: float = Field(
        600, gt=0, allow_inf_nan=False, description="Seconds that a server may take until it answers."
    )
    drain_timeout_s: float = Field(
        30, ge=0, allow_inf_nan=False, description="Seconds that open requests get when a server is stopped."
    )
    request_timeout_s: float = Field(60, gt=0, allow_inf_nan=False, description="Seconds that one request may take.")
    max_restarts: int = Field(5, ge=0, description="Restarts in a row that are tried; then the deployment has failed.")
    restart_backoff_s: float = Field(
        1,
        gt=0,
        allow_inf_nan=False,
        description="Seconds before the first restart, doubled with each crash in a row, at most 60.",
    )
    devices: str | None = Field(None, description="CUDA_VISIBLE_DEVICES of the server, for example 0,1.")
    environment: Texts = Field({}, description="More environment variables of the server: JSON object, or a=1,b=2.")
    labels: Texts = Field({}, description="Anything to remember with the deployment: JSON object, or a=1,b=2.")
    flavor: str | None = Field(
        None, alias="MLFLOW_DEPLOYMENT_FLAVOR", description="Flavor that the model must have, as `--flavor` says it."
    )

    @classmethod
    def parse(cls, raw: Mapping[str, Any], source: str) -> Self:
        """Check and build, see `Settings.parse`; a key in the open is refused without repeating it."""
        if isinstance(raw, Mapping) and "api_key" in raw:
            raise InvalidInputError(
                f"{source}: api_key is not taken here, as everybody on this machine can read the arguments of a "
                "command. Give api_key_file=PATH, or generate_api_key=true."
            )
        return super().parse(raw, source)

    @model_validator(mode="before")
    @classmethod
    def _given(cls, raw: Any) -> Any:
        return _without_empty(raw)

    @field_validator("devices", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        if isinstance(value, str) and value.lstrip().startswith("["):
            value = json.loads(value)  # a ValueError where it is not JSON
        if isinstance(value, int):
            return str(value)
        return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else value

    @field_validator("api_key_file")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        try:
            return None if value is None else value.expanduser().absolute()
        except RuntimeError as error:  # ~ of a user who is not there
            raise ValueError(f"{error}") from error

    @field_validator("environment")
    @classmethod
    def _names(cls, value: dict[str, str | None]) -> dict[str, str | None]:
        for name, text in value.items():
            if not name or "=" in name or "\0" in name + (text or ""):
                raise ValueError("names must not be empty nor hold '=', and nothing may hold a NUL")
            if name in (KEY, KEY_FILE):
                raise ValueError(f"{name} has settings of its own: {KEY_SETTINGS}")
        return value

    @model_validator(mode="after")
    def _one_source_of_keys(self) -> Self:
        if self.api_key_file is not None and self.generate_api_key:
            raise ValueError("give either api_key_file or generate_api_key=true, not both.")
        return self

    def given(self) -> dict[str, Any]:
        """What was set, as JSON has it: strings read, paths absolute.

        Raises:
            InvalidInputError: JSON cannot hold it.
        """
        try:
            return self.model_dump(mode="json", by_alias=True, exclude_unset=True)
        except PydanticSerializationError as error:
            raise InvalidInputError("config: model_config must hold what JSON can hold.") from error

    @property
    def has_key(self) -> bool:
        """Whether clients must send an API key."""
        return self.api_key_file is not None or self.generate_api_key


class EndpointConfig(Settings):
    """What an endpoint is made of."""

    traffic: Annotated[dict[str, Annotated[float, Field(ge=0, le=_MOST)]], BeforeValidator(_object)] = Field(
        {}, description="Share of each deployment: a=90,b=10, or a JSON object. Shares are relative to their sum."
    )

    @model_validator(mode="before")
    @classmethod
    def _given(cls, raw: Any) -> Any:
        return _without_empty(raw)
