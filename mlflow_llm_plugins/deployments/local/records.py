"""What was asked of a deployment, written by commands, and what is, written by its supervisor: JSON, whole or not."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from mlflow_llm_plugins.deployments.local.process_identity import ProcessIdentity
from mlflow_llm_plugins.deployments.settings import DeploymentConfig
from mlflow_llm_plugins.errors import LLMError

FORMAT = 1

State = Literal["starting", "ready", "unhealthy", "restarting", "failed", "stopped"]
Kind = TypeVar("Kind", bound="Record")


class UnreadableRecordError(LLMError):
    """A record that is there but makes no sense: damaged, or of a newer version of this package."""


class Record(BaseModel):
    """A frozen value that is kept as JSON in a file that only its owner can read."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    format: int = FORMAT


class ModelSource(BaseModel):
    """A model, resolved and on this machine."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    uri: str  # as asked
    resolved: str  # what it meant then: an alias becomes a version
    path: Path  # a directory with MLmodel
    flavor: str  # as shown
    is_ours: bool  # a quantized LLM, whose server has the routes of OpenAI's API
    quantization: str | None = None
    task: str | None = None  # for example llm/v1/chat


class Spec(Record):
    """What was asked; a new `generation` with each command that changes it."""

    name: str
    generation: int
    token: str  # of the supervisor that shall serve it: one that finds another token here is not wanted any more
    model: ModelSource | None  # None: being downloaded by the command that holds the command lock
    config: dict[str, Any]  # what the user has set, under the keys of `DeploymentConfig`
    created: float  # seconds since 1970
    updated: float

    @field_validator("config")
    @classmethod
    def _understood(cls, value: dict[str, Any]) -> dict[str, Any]:
        DeploymentConfig.parse(value, "config")  # a ValueError where it is not: the record is damaged then
        return value

    @property
    def settings(self) -> DeploymentConfig:
        """The configuration with its defaults."""
        return DeploymentConfig.parse(self.config, "config")


class Refusal(BaseModel):
    """A generation that did not become ready; the one before it went on."""

    model_config = ConfigDict(frozen=True)

    generation: int
    error: str


class Status(Record):
    """What is, as the supervisor sees it. Read it with its lock in mind: a dead supervisor changes nothing here."""

    token: str
    supervisor: ProcessIdentity
    state: State = "starting"
    reason: str = ""  # of the state
    phase: str = ""  # of a start or an update: what it waits for
    port: int | None = None
    serving: Spec | None = None  # what the running server was made from
    last_ready: Spec | None = None  # the newest that was ready, be it under an earlier supervisor
    server: list[ProcessIdentity] = Field(default_factory=list)  # its processes
    starting: list[ProcessIdentity] = Field(default_factory=list)  # those of one that is not ready yet
    ready_since: float | None = None  # seconds since 1970
    restarts: int = 0
    last_error: str = ""
    refused: Refusal | None = None  # the last one

    @property
    def goes_on(self) -> bool:
        """Whether the supervisor takes changes; else it has ended, or ends what is left."""
        return self.state not in ("failed", "stopped")


def write_record(record: Record, path: Path) -> None:
    """Replace the file, so that readers see the old content or the new one; mode 0600.

    Raises:
        OSError: It cannot be written; the old content stays.
    """
    write_private(record.model_dump_json(indent=1, by_alias=True).encode() + b"\n", path)


def write_private(content: bytes, path: Path) -> None:
    """Replace a file by one that only its owner can read; the old one stays where that fails."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def read_record(kind: type[Kind], path: Path) -> Kind | None:
    """What the file holds; None when there is none.

    Raises:
        UnreadableRecordError: It is there but cannot be understood.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnreadableRecordError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        record = kind.model_validate_json(content)
    except ValidationError as error:
        raise UnreadableRecordError(f"{path} is damaged: {error.error_count()} of its fields are wrong.") from error
    if record.format > FORMAT:
        raise UnreadableRecordError(
            f"{path} has format {record.format}; this version knows {FORMAT}. Upgrade mlflow-llm-plugins."
        )
    return record
