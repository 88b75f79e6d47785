"""The target `local`, as commands see it: what they write down, whom they start, and what they wait for."""

from __future__ import annotations

import logging
import shutil
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from mlflow_llm_plugins.deployments.address import Address, shell_command
from mlflow_llm_plugins.deployments.local.claims import changing, claimed, remove, write_spec
from mlflow_llm_plugins.deployments.local.ending import end_deployment
from mlflow_llm_plugins.deployments.local.home import DeploymentFolder, Home
from mlflow_llm_plugins.deployments.local.keys import check_exposure, config_with_keys, provide_key
from mlflow_llm_plugins.deployments.local.launch import end, launch_supervisor, leave, server_environ
from mlflow_llm_plugins.deployments.local.model_source import resolve_model
from mlflow_llm_plugins.deployments.local.platform import refuse_without_posix
from mlflow_llm_plugins.deployments.local.records import ModelSource, Spec, Status
from mlflow_llm_plugins.deployments.local.relay.door import check_bindable
from mlflow_llm_plugins.deployments.local.specs import first_spec, last_good, new_token, next_spec
from mlflow_llm_plugins.deployments.local.view import View
from mlflow_llm_plugins.deployments.local.waiting import RefusedError, wait_until_serving
from mlflow_llm_plugins.deployments.settings import DeploymentConfig
from mlflow_llm_plugins.errors import DeploymentError, EngineUnavailableError, InvalidInputError, ResourceNotFoundError
from mlflow_llm_plugins.lookup import did_you_mean

_logger = logging.getLogger(__name__)
_LAST_STEPS_S = 20.0  # of a supervisor, after its server has drained


class StartFailedError(DeploymentError):
    """A deployment that was not running, and could not be started as it was asked."""


class LocalBackend:
    """Deployments of one state directory. Holds nothing: each call reads what is there."""

    def __init__(self, home: Home, environ: Mapping[str, str], target: str = "local") -> None:
        """Nothing is read or written yet.

        Args:
            home: The state directory.
            environ: Of this process; servers inherit it.
            target: The URI that means this directory, for messages.
        """
        self._home = home
        self._environ = environ
        self._target = target

    def create(self, name: str, model_uri: str, flavor: str | None, config: Mapping[str, Any]) -> dict[str, Any]:
        """Serve a model; returns when it answers.

        Raises:
            ResourceExistsError: There is such a deployment; a dead one is replaced.
            InvalidInputError: There is no such model.
            DeploymentError: It did not become ready. Nothing is left of it.
        """
        settings = DeploymentConfig.parse(config, "config")
        folder, claimed_spec = self._first(name, settings)
        with claimed(self._home, folder, claimed_spec):
            download = folder.new_download()
            try:
                model = self._resolved(download, claimed_spec, model_uri, flavor or settings.flavor)
                self._start(folder, self._completed(folder, claimed_spec, model))
            except BaseException:  # Ctrl-C as well
                shutil.rmtree(download, ignore_errors=True)  # also where the name is somebody else's by now
                self._discard(folder, claimed_spec)
                raise
        return self.get(name)

    def prepare(
        self, name: str, model_uri: str, flavor: str | None, config: Mapping[str, Any]
    ) -> tuple[DeploymentFolder, Spec]:
        """All of a creation but the supervisor, for who wants to be that.

        Raises:
            InvalidInputError: There is no such model.
        """
        settings = DeploymentConfig.parse(config, "config")
        folder, claimed_spec = self._first(name, settings)
        with claimed(self._home, folder, claimed_spec):
            model = self._resolved(folder.new_download(), claimed_spec, model_uri, flavor or settings.flavor)
            spec = self._completed(folder, claimed_spec, model)
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
        settings = DeploymentConfig.parse(config, "config")
        unset = [key for key, value in config.items() if value is None or value == ""]
        folder = self._view(name).folder
        if flavor is not None and model_uri is None:
            raise InvalidInputError(f"flavor={flavor!r}: give the URI of the model that has this flavor, too.")
        with changing(folder):
            view = self._view(name)
            spec = next_spec(view, _remembered(settings), unset)
            check_exposure(spec.settings)
            if not view.is_supervised or spec.settings.port not in (None, view.port):  # else it is our own door
                check_bindable(spec.settings.host, spec.settings.port)
            download = folder.new_download()
            try:
                model = self._resolved(download, spec, model_uri, flavor or settings.flavor)
                self._change(folder, self._completed(folder, spec, model))
            except (InvalidInputError, RefusedError, StartFailedError):
                shutil.rmtree(download, ignore_errors=True)  # nobody serves it, nor will
                raise
        return self.get(name)

    def delete(self, name: str) -> None:
        """Stop a deployment and forget it; one that is not there is no error.

        Raises:
            DeploymentError: Its processes cannot be ended from here.
        """
        view = View.of(self._home.folder(name))
        if view is not None:
            end_deployment(view)
            remove(self._home, view.folder, None if view.spec is None else view.spec.created)

    def exists(self, name: str) -> bool:
        """Whether there is such a deployment, in whatever state."""
        return View.of(self._home.folder(name)) is not None

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
            return replace(address, target=self._target)
        state, reason = view.state()
        because = f" ({reason})" if reason else ""
        again = f"`{shell_command('update', self._target, name)}` starts it again."
        raise EngineUnavailableError(
            f"Deployment {name!r} is {state}{because}. {'Wait for it.' if state == 'starting' else again}"
        )

    def address_if_running(self, name: str) -> tuple[Address, bool] | None:
        """The same, and whether it is ready; None where there is no such deployment or it is not running."""
        view = View.of(self._home.folder(name))
        address = None if view is None else view.address()
        if view is None or address is None:
            return None
        return replace(address, target=self._target), view.state()[0] == "ready"

    def _view(self, name: str) -> View:
        view = View.of(self._home.folder(name))
        if view is None:
            names = [folder.name for folder in self._home.folders()]
            raise ResourceNotFoundError(
                f"There is no deployment {name!r} in {self._home.root}.{did_you_mean(name, names)} "
                f"There are: {', '.join(names) or 'none'}."
            )
        return view

    def _first(self, name: str, settings: DeploymentConfig) -> tuple[DeploymentFolder, Spec]:
        refuse_without_posix()
        folder = self._home.folder(name)
        check_exposure(settings)
        _let_end(folder)
        view = View.of(folder)
        if view is None or not (view.is_claimed or view.is_being_changed):  # else the name is what is taken
            check_bindable(settings.host, settings.port)
        self._home.make()
        return folder, first_spec(name, _remembered(settings))

    def _resolved(self, download: Path, spec: Spec, uri: str | None, flavor: str | None) -> ModelSource:
        """The model that is asked for, or the one that the deployment has, if it is still there."""
        if uri is not None:
            return resolve_model(uri, flavor, download)
        if spec.model is None:
            raise InvalidInputError(f"Deployment {spec.name!r} has no model yet: give the model's URI.")
        found = resolve_model(str(spec.model.path), flavor or spec.model.flavor, download)
        return spec.model.model_copy(update={"flavor": found.flavor})

    def _completed(self, folder: DeploymentFolder, spec: Spec, model: ModelSource) -> Spec:
        """The spec as a supervisor needs it: with the model, and keys where they are asked for."""
        config = config_with_keys(spec.config, model, self._environ)
        provide_key(folder, DeploymentConfig.parse(config, "config"))
        return spec.model_copy(update={"model": model, "config": config})

    def _start(self, folder: DeploymentFolder, spec: Spec) -> None:
        write_spec(folder, spec)
        launched = launch_supervisor(folder, spec.token, server_environ(self._environ))
        try:
            wait_until_serving(folder, spec, launched)
        except BaseException:
            end(launched, spec.settings.drain_timeout_s + _LAST_STEPS_S)
            raise
        leave(launched)

    def _change(self, folder: DeploymentFolder, spec: Spec) -> None:
        """Have the spec served by the supervisor that runs now, or by a new one."""
        view = self._view(spec.name)  # again, as a download may have taken long
        if view.is_supervised and view.status is not None and view.status.goes_on and view.status.supervisor.is_alive:
            return self._hand_over(folder, spec.model_copy(update={"token": view.status.token}), view.status)
        end_deployment(view)  # what a lost supervisor may have left
        spec = spec.model_copy(update={"token": new_token()})
        try:
            self._start(folder, spec)
        except DeploymentError as error:
            if (good := last_good(view)) is not None:  # which the next update goes on from
                write_spec(folder, good.model_copy(update={"token": spec.token, "generation": spec.generation}))
            raise StartFailedError(str(error)) from error
        _remove_what_is_unused(folder, spec)

    def _hand_over(self, folder: DeploymentFolder, spec: Spec, status: Status) -> None:
        """To the supervisor that runs, which removes the old model once its server has ended."""
        write_spec(folder, spec)
        process = status.supervisor.process()
        if process is not None:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGHUP)
        try:
            wait_until_serving(folder, spec, None)
        except KeyboardInterrupt:
            _logger.warning("The update of deployment %r goes on without this command.", spec.name)
            raise
        if not spec.settings.generate_api_key:
            folder.api_key.unlink(missing_ok=True)

    def _discard(self, folder: DeploymentFolder, spec: Spec) -> None:
        """What this command has made, unless somebody else has made it new."""
        view = View.of(folder)
        if view is None:
            return
        if view.spec is not None and view.spec.created == spec.created:
            end_deployment(view)
            remove(self._home, folder, spec.created)
        elif not folder.spec.exists() and not view.is_supervised:  # deleted meanwhile, while a download went on
            remove(self._home, folder)


def _let_end(folder: DeploymentFolder) -> None:
    """Wait for a supervisor that was stopped already."""
    view = View.of(folder)
    if view is None or view.status is None or not view.is_supervised or view.status.goes_on:
        return
    if view.spec is None or view.spec.token == view.status.token:  # else it is the word of an earlier one
        end_deployment(view)


def _remembered(settings: DeploymentConfig) -> dict[str, Any]:
    """What the next commands shall know: not the flavor, which is said of one model."""
    return {name: value for name, value in settings.given().items() if name != "MLFLOW_DEPLOYMENT_FLAVOR"}


def _remove_what_is_unused(folder: DeploymentFolder, served: Spec) -> None:
    """Downloads that nothing is served from any more, and a key that nobody asks for."""
    assert served.model is not None
    path = served.model.path.resolve()
    for other in folder.downloads():
        if other.resolve() not in (path, *path.parents):
            shutil.rmtree(other, ignore_errors=True)
    if not served.settings.generate_api_key:
        folder.api_key.unlink(missing_ok=True)
