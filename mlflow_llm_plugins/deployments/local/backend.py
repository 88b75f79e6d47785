"""The target `local`, as commands see it: what they write down, whom they start, and what they wait for."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from mlflow_llm_plugins.deployments.address import Address
from mlflow_llm_plugins.deployments.local.claims import changing, claim, remove, write_spec
from mlflow_llm_plugins.deployments.local.ending import end_deployment
from mlflow_llm_plugins.deployments.local.home import DeploymentFolder, Home
from mlflow_llm_plugins.deployments.local.keys import check_exposure, config_with_keys, provide_key
from mlflow_llm_plugins.deployments.local.launch import launch_supervisor, server_environ
from mlflow_llm_plugins.deployments.local.model_source import resolve_model
from mlflow_llm_plugins.deployments.local.platform import refuse_without_posix
from mlflow_llm_plugins.deployments.local.records import ModelSource, Spec, Status
from mlflow_llm_plugins.deployments.local.specs import first_spec, next_spec
from mlflow_llm_plugins.deployments.local.view import View
from mlflow_llm_plugins.deployments.local.waiting import wait_until_serving
from mlflow_llm_plugins.deployments.settings import DeploymentConfig
from mlflow_llm_plugins.errors import DeploymentError, EngineUnavailableError, InvalidInputError, ResourceNotFoundError
from mlflow_llm_plugins.lookup import did_you_mean


class LocalBackend:
    """Deployments of one state directory. Holds nothing: each call reads what is there."""

    def __init__(self, home: Home, environ: Mapping[str, str]) -> None:
        """Nothing is read or written yet.

        Args:
            home: The state directory.
            environ: Of this process; servers inherit it.
        """
        self._home = home
        self._environ = environ

    def create(self, name: str, model_uri: str, flavor: str | None, config: Mapping[str, Any]) -> dict[str, Any]:
        """Serve a model; returns when it answers.

        Raises:
            ResourceExistsError: There is such a deployment; a dead one is replaced.
            InvalidInputError: There is no such model.
            DeploymentError: It did not become ready. Nothing is left of it.
        """
        folder, claimed = self._claimed(name, config)
        try:
            with changing(folder):
                self._start(folder, self._first(folder, claimed, model_uri, flavor))
        except BaseException:  # Ctrl-C as well
            self._discard(folder, claimed)
            raise
        return self.get(name)

    def prepare(
        self, name: str, model_uri: str, flavor: str | None, config: Mapping[str, Any]
    ) -> tuple[DeploymentFolder, Spec]:
        """All of a creation but the supervisor, for who wants to be that.

        Raises:
            InvalidInputError: There is no such model.
        """
        folder, claimed = self._claimed(name, config)
        spec = self._first(folder, claimed, model_uri, flavor)
        write_spec(folder, spec)
        return folder, spec

    def update(
        self, name: str, model_uri: str | None, flavor: str | None, config: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Serve another model, or the same one in another way; starts a deployment that is not running.

        Raises:
            ResourceNotFoundError: There is no such deployment.
            InvalidInputError: There is no such model.
            DeploymentError: The new version did not become ready; the old one goes on, if it was running.
        """
        refuse_without_posix()
        folder = self._view(name).folder
        if flavor is not None and model_uri is None:
            raise InvalidInputError(f"flavor={flavor!r}: give the URI of the model that has this flavor, too.")
        with changing(folder):
            view = self._view(name)
            spec = next_spec(view, config)
            check_exposure(DeploymentConfig.parse(spec.config, "config"))
            model = self._model(spec, model_uri, flavor, folder)
            spec = self._completed(folder, spec, model)
            if view.is_supervised and view.status is not None:
                self._hand_over(folder, spec, view.status)
            else:
                end_deployment(view)  # what a lost supervisor may have left
                self._start(folder, spec)
            _remove_other_models(folder, model.path)
        return self.get(name)

    def delete(self, name: str) -> None:
        """Stop a deployment and forget it; one that is not there is no error.

        Raises:
            DeploymentError: Its processes cannot be ended from here.
        """
        view = View.of(self._home.folder(name))
        if view is not None:
            end_deployment(view)
            remove(self._home, view.folder)

    def get(self, name: str) -> dict[str, Any]:
        """What is known of a deployment.

        Raises:
            ResourceNotFoundError: There is none of this name.
        """
        return self._view(name).describe()

    def list(self) -> list[dict[str, Any]]:
        """What is known of all deployments, by name."""
        views = map(View.of, self._home.folders())
        return [view.describe() for view in views if view is not None]

    def task_if_known(self, name: str) -> str | None:
        """What the deployment's model does, for example llm/v1/chat; None where nothing says it."""
        view = View.of(self._home.folder(name))
        serving = None if view is None else view.serving
        return serving.model.task if serving is not None and serving.model is not None else None

    def address(self, name: str) -> Address:
        """Where requests to a deployment go.

        Raises:
            ResourceNotFoundError: There is no such deployment.
            EngineUnavailableError: It is not running.
        """
        view = self._view(name)
        if (address := view.address()) is not None:
            return address
        state, reason = view.state()
        because = f" ({reason})" if reason else ""
        raise EngineUnavailableError(
            f"Deployment {name!r} is {state}{because}. `mlflow deployments update -t local --name {name}` starts it "
            "again."
        )

    def address_if_running(self, name: str) -> Address | None:
        """The same; None where there is no such deployment or it is not running."""
        view = View.of(self._home.folder(name))
        return None if view is None else view.address()

    def _view(self, name: str) -> View:
        view = View.of(self._home.folder(name))
        if view is None:
            names = [folder.name for folder in self._home.folders()]
            raise ResourceNotFoundError(
                f"There is no deployment {name!r} in {self._home.root}.{did_you_mean(name, names)} "
                f"There are: {', '.join(names) or 'none'}."
            )
        return view

    def _claimed(self, name: str, config: Mapping[str, Any]) -> tuple[DeploymentFolder, Spec]:
        refuse_without_posix()
        folder = self._home.folder(name)
        check_exposure(DeploymentConfig.parse(config, "config"))
        self._home.make()
        spec = first_spec(name, config)
        claim(self._home, folder, spec)
        return folder, spec

    def _first(self, folder: DeploymentFolder, claimed: Spec, uri: str, flavor: str | None) -> Spec:
        model = resolve_model(uri, flavor or claimed.settings.flavor, folder.model(claimed.generation))
        return self._completed(folder, claimed, model)

    def _model(self, spec: Spec, uri: str | None, flavor: str | None, folder: DeploymentFolder) -> ModelSource:
        if uri is not None:
            return resolve_model(uri, flavor, folder.model(spec.generation))
        if spec.model is None:
            raise InvalidInputError(f"Deployment {spec.name!r} has no model yet: give the model's URI.")
        return spec.model

    def _completed(self, folder: DeploymentFolder, spec: Spec, model: ModelSource) -> Spec:
        """The spec as a supervisor needs it: with the model, and keys where they are asked for."""
        config = config_with_keys(spec.config, model, self._environ)
        provide_key(folder, DeploymentConfig.parse(config, "config"))
        return spec.model_copy(update={"model": model, "config": config})

    def _start(self, folder: DeploymentFolder, spec: Spec) -> None:
        write_spec(folder, spec)
        launched = launch_supervisor(folder, spec.token, server_environ(self._environ))
        wait_until_serving(folder, spec, launched)

    def _hand_over(self, folder: DeploymentFolder, spec: Spec, status: Status) -> None:
        """To the supervisor that runs."""
        write_spec(folder, spec)
        process = status.supervisor.process()
        if process is not None:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGHUP)
        try:
            wait_until_serving(folder, spec, None)
        except DeploymentError:
            shutil.rmtree(folder.model(spec.generation), ignore_errors=True)  # the old version's is kept
            raise

    def _discard(self, folder: DeploymentFolder, spec: Spec) -> None:
        """What this command has made, unless somebody else has made it new."""
        view = View.of(folder)
        if view is not None and view.spec is not None and view.spec.created == spec.created:
            end_deployment(view)
            remove(self._home, folder, spec.created)


def _remove_other_models(folder: DeploymentFolder, path: Path) -> None:
    """Downloads that nothing is served from any more."""
    for other in folder.path.glob("model-*"):
        if other != path and other not in path.parents:
            shutil.rmtree(other, ignore_errors=True)
