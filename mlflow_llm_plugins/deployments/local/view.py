"""What is shown of a deployment: its records, and whether what they say can still be true."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import psutil

from mlflow_llm_plugins.deployments.address import Address
from mlflow_llm_plugins.deployments.local.home import DeploymentFolder
from mlflow_llm_plugins.deployments.local.life_lock import is_held
from mlflow_llm_plugins.deployments.local.process_identity import ProcessIdentity
from mlflow_llm_plugins.deployments.local.records import (
    ModelSource,
    Record,
    Spec,
    State,
    Status,
    UnreadableRecordError,
    read_record,
)
from mlflow_llm_plugins.deployments.settings import DeploymentConfig

ShownState = State | Literal["lost"]
Kind = TypeVar("Kind", bound=Record)
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True, slots=True)
class View:
    """One look at a deployment."""

    folder: DeploymentFolder
    spec: Spec | None
    status: Status | None
    is_supervised: bool  # a supervisor lives
    is_being_changed: bool  # by a command
    damage: str = ""  # of a record that cannot be read

    @classmethod
    def of(cls, folder: DeploymentFolder) -> View | None:
        """Look at it; None: there is no such deployment."""
        if not folder.path.is_dir():
            return None
        is_supervised = is_held(folder.life_lock)  # before the records: what ends in between is seen as alive
        spec, damage_of_spec = _whole(Spec, folder.spec)
        status, damage_of_status = _whole(Status, folder.status)
        is_being_changed = is_held(folder.command_lock)
        return cls(folder, spec, status, is_supervised, is_being_changed, damage_of_spec or damage_of_status)

    @property
    def is_claimed(self) -> bool:
        """Whether a command is about to start its supervisor, or a supervisor lives."""
        return self.is_supervised or (self._is_new and self.is_being_changed)

    @property
    def _is_new(self) -> bool:
        """Whether no supervisor has taken up the last spec yet."""
        return self.spec is not None and (self.status is None or self.status.token != self.spec.token)

    @property
    def serving(self) -> Spec | None:
        """What the server was made from, or what it is to be made from; of a dead one, what an update starts again."""
        status = self.status
        if status is None:
            return self.spec
        return status.serving or (None if self.is_supervised else status.last_ready) or self.spec

    def state(self) -> tuple[ShownState, str]:
        """The state and its reason."""
        if self.is_supervised:
            if self.status is None or self._is_new:
                return "starting", "its supervisor begins"
            if not self.status.goes_on:
                return self.status.state, f"{self.status.reason}; it ends what is open"
            return self.status.state, self.status.reason or (self.status.phase if self._is_starting else "")
        if self.is_claimed:
            return "starting", "a command prepares its model"
        if self.damage:
            return "lost", self.damage
        if self.status is None or self._is_new:
            return "lost", "the command that was to start it ended too early"
        if self.status.state in ("failed", "stopped"):
            return self.status.state, self.status.reason
        if not self.status.supervisor.is_of_this_boot:
            return "stopped", "reboot"
        return "lost", "supervisor lost: its process was ended from outside"

    @property
    def _is_starting(self) -> bool:
        return self.status is not None and self.status.state == "starting"

    @property
    def port(self) -> int | None:
        """Where clients connect to."""
        return None if self.status is None else self.status.port

    @property
    def url(self) -> str | None:
        """Where clients connect to; None before it has a port."""
        if self.status is None or self.status.port is None or self.serving is None:
            return None
        host = self.serving.settings.host
        return f"http://{_in_url(_ANY_ADDRESS.get(host, host))}:{self.status.port}"

    def address(self) -> Address | None:
        """For requests; None where nobody would take them."""
        serving, url = self.serving, self.url
        if not self.is_supervised or serving is None or serving.model is None or url is None:
            return None
        if self.status is None or not self.status.goes_on:
            return None
        settings = serving.settings
        return Address(
            url=url,
            is_ours=serving.model.is_ours,
            api_key_file=self.folder.key_file(settings),
            timeout_s=settings.request_timeout_s,
            name=self.folder.name,
        )

    def describe(self) -> dict[str, Any]:
        """All that `get_deployment` shows."""
        state, reason = self.state()
        spec, status = self.serving, self.status
        model = None if spec is None else spec.model
        settings = DeploymentConfig() if spec is None else spec.settings
        pids = [*status.server, *status.starting] if status is not None and self.is_supervised else []
        return {
            "name": self.folder.name,
            "status": state,
            "reason": reason,
            "url": self.url,
            "model_uri": model and model.uri,
            "resolved_model_uri": model and model.resolved,
            "flavor": model and model.flavor,
            "quantization": model and _quantization(model, settings),
            "task": model and model.task,
            "config": {} if spec is None else shown_config(spec),
            "labels": dict(settings.labels),
            "api_key_file": _text(self.folder.key_file(settings)),
            "supervisor_pid": status.supervisor.pid if status is not None and self.is_supervised else None,
            "pids": [identity.pid for identity in pids],
            "uptime_s": self._uptime_s(),
            "restarts": 0 if status is None else status.restarts,
            "memory_bytes": memory_of(pids),
            "last_error": "" if status is None else status.last_error,
            "refused_update": status.refused.error if status is not None and status.refused is not None else "",
            "created": None if self.spec is None else self.spec.created,
            "updated": None if self.spec is None else self.spec.updated,
            "log": str(self.folder.log),
        }

    def _uptime_s(self) -> float | None:
        status = self.status
        if status is None or status.ready_since is None or not self.is_supervised:
            return None
        return round(max(0.0, time.time() - status.ready_since), 1) if status.state in ("ready", "unhealthy") else None


def _whole(kind: type[Kind], path: Path) -> tuple[Kind | None, str]:
    """The record, or what is wrong with it."""
    try:
        return read_record(kind, path), ""
    except UnreadableRecordError as error:
        return None, str(error)


def _quantization(model: ModelSource, settings: DeploymentConfig) -> Any:
    """The artifact's, unless the deployment's own settings name another one."""
    named = settings.serving_config.get("quantization") if model.is_ours else None
    if named is None:
        return model.quantization
    method = named.get("method") if isinstance(named, dict) else named
    return None if method == "none" else method


def shown_config(spec: Spec) -> dict[str, Any]:
    """What was set; of environment variables their names only."""
    config = dict(spec.config)
    if "environment" in config:
        config["environment"] = sorted(spec.settings.environment)
    return config


def memory_of(identities: list[ProcessIdentity]) -> int:
    """Resident bytes of the processes that still run."""
    total = 0
    for identity in identities:
        if (process := identity.process()) is not None:
            with suppress(psutil.Error):
                total += process.memory_info().rss
    return total


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
