"""Endpoints: a name over one or more deployments, each with a share of the traffic. A file for each."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlflow_llm_plugins.deployments.local.claims import held
from mlflow_llm_plugins.deployments.local.home import Home, checked_name
from mlflow_llm_plugins.deployments.local.records import Record, UnreadableRecordError, read_record, write_record
from mlflow_llm_plugins.deployments.settings import EndpointConfig
from mlflow_llm_plugins.errors import InvalidInputError, ResourceExistsError, ResourceNotFoundError
from mlflow_llm_plugins.lookup import did_you_mean

_logger = logging.getLogger(__name__)

_WHOLE = 100.0


class Endpoint(Record):
    """What is remembered of an endpoint."""

    name: str
    traffic: dict[str, float]  # name of a deployment -> its share, relative to their sum
    created: float  # seconds since 1970
    updated: float

    def draw(self, usable: Container[str]) -> str | None:
        """A deployment, as likely as its share among those that are usable; None: no such has a share."""
        shares = {name: share for name, share in self.traffic.items() if share > 0 and name in usable}
        return random.choices(list(shares), list(shares.values()))[0] if shares else None


class Endpoints:
    """The endpoints of one state directory. Holds nothing: each call reads what is there."""

    def __init__(self, home: Home) -> None:
        """Nothing is read or written yet."""
        self._home = home

    def create(self, name: str, config: Mapping[str, Any]) -> Endpoint:
        """Make one; its deployments must be there.

        Raises:
            ResourceExistsError: There is one of this name.
            ResourceNotFoundError: There is no such deployment.
        """
        path, traffic = self._path(name), self._traffic(config)
        self._home.make()
        with held(self._home):
            if path.exists():
                raise ResourceExistsError(f"Endpoint {name!r} exists already. Update it, or take another name.")
            now = time.time()
            endpoint = Endpoint(name=name, traffic=traffic or {}, created=now, updated=now)
            write_record(endpoint, path)
        return endpoint

    def update(self, name: str, config: Mapping[str, Any]) -> Endpoint:
        """Share out the traffic in another way; a configuration without `traffic` changes nothing.

        Raises:
            ResourceNotFoundError: There is no such endpoint or deployment.
        """
        traffic = self._traffic(config)
        return self.get(name) if traffic is None else self._share_out(name, lambda _: traffic)

    def delete(self, name: str) -> None:
        """Forget it, not its deployments; one that is not there is no error."""
        path = self._path(name)
        if path.exists():
            with held(self._home):
                path.unlink(missing_ok=True)

    def get(self, name: str) -> Endpoint:
        """What is remembered.

        Raises:
            ResourceNotFoundError: There is no such endpoint.
        """
        endpoint = read_record(Endpoint, self._path(name))
        if endpoint is None:
            names = [path.stem for path in self._paths()]
            raise ResourceNotFoundError(
                f"There is no endpoint {name!r} in {self._home.root}.{did_you_mean(name, names)} "
                f"There are: {', '.join(names) or 'none'}."
            )
        return endpoint

    def list(self) -> Sequence[Endpoint]:
        """All of them that can be read, by name."""
        found = []
        for path in self._paths():
            try:
                endpoint = read_record(Endpoint, path)
            except UnreadableRecordError as error:
                _logger.warning("%s `mlflow deployments delete-endpoint` removes it.", error)
                continue
            if endpoint is not None:
                found.append(endpoint)
        return found

    def add(self, name: str, deployment: str) -> None:
        """Put a deployment under an endpoint: the first one gets all of the traffic, a later one none yet.

        Raises:
            ResourceNotFoundError: There is no such endpoint.
        """
        self._share_out(name, lambda old: {deployment: 0.0 if any(old.values()) else _WHOLE, **old})

    def forget(self, deployment: str) -> None:
        """Take a deployment that is gone out of all endpoints."""
        for endpoint in self.list():
            if deployment in endpoint.traffic:
                with suppress(ResourceNotFoundError):  # it was deleted meanwhile
                    self._share_out(
                        endpoint.name, lambda old: {name: share for name, share in old.items() if name != deployment}
                    )

    def _share_out(self, name: str, change: Callable[[dict[str, float]], dict[str, float]]) -> Endpoint:
        with held(self._home):
            old = self.get(name)
            new = old.model_copy(update={"traffic": change(old.traffic), "updated": time.time()})
            write_record(new, self._path(name))
        return new

    def _traffic(self, config: Mapping[str, Any]) -> dict[str, float] | None:
        settings = EndpointConfig.parse(config, "config")
        if "traffic" not in settings.model_fields_set:
            return None
        known = [folder.name for folder in self._home.folders()]
        for name in settings.traffic:
            if name not in known:
                raise ResourceNotFoundError(f"traffic: there is no deployment {name!r}.{did_you_mean(name, known)}")
        if settings.traffic and not any(settings.traffic.values()):
            raise InvalidInputError(f"traffic={dict(settings.traffic)}: one share at least must be above 0.")
        return dict(settings.traffic)

    def _path(self, name: str) -> Path:
        return self._home.endpoints / f"{checked_name(name, 'endpoint')}.json"

    def _paths(self) -> Sequence[Path]:
        return sorted(path for path in self._home.endpoints.glob("*.json") if not path.name.startswith("."))
