"""MLflow's deployment client, with MLflow's signatures: from its arguments to a backend and back."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from mlflow.deployments import BaseDeploymentClient, PredictionsResponse

from mlflow_llm_plugins.deployments.address import Address, shell_command
from mlflow_llm_plugins.deployments.answers import predictions_of
from mlflow_llm_plugins.deployments.caller import Caller
from mlflow_llm_plugins.deployments.cli_input import raw_input
from mlflow_llm_plugins.deployments.endpoint_description import EndpointDescription
from mlflow_llm_plugins.deployments.local.backend import LocalBackend
from mlflow_llm_plugins.deployments.local.endpoints import Endpoint, Endpoints
from mlflow_llm_plugins.deployments.payloads import request_of, stream_request_of
from mlflow_llm_plugins.deployments.reporting import reported
from mlflow_llm_plugins.deployments.target import home_of
from mlflow_llm_plugins.errors import EngineUnavailableError, InvalidInputError, UnsupportedFeatureError


class LLMDeploymentClient(BaseDeploymentClient):
    """Deployments on this machine, see `mlflow deployments help -t local`. Thread-safe; keeps no state of its own."""

    def __init__(self, target_uri: str) -> None:
        """For `local`, `local:/path` or `local://name`.

        Raises:
            MlflowException: It is none of these.
        """
        super().__init__(target_uri)
        with reported():
            home = home_of(target_uri, os.environ)
        self._backend = LocalBackend(home, os.environ, target_uri)
        self._endpoints = Endpoints(home)
        self._caller = Caller()

    def create_deployment(
        self,
        name: str,
        model_uri: str,
        flavor: str | None = None,
        config: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Serve a model; returns when it answers.

        Args:
            name: Letters, digits, dots, dashes and underscores.
            model_uri: As `mlflow models serve` takes it.
            flavor: That the model must have; by default any that can be served.
            config: See `mlflow deployments help -t local`.
            endpoint: To put the deployment under; all of the traffic of an endpoint goes to its first one.

        Returns:
            What `get_deployment` returns.

        Raises:
            MlflowException: The name is taken, there is no such model, or it did not become ready: then nothing is
                left of it.
        """
        with reported():
            if endpoint is not None:
                self._endpoints.get(endpoint)
            created = self._backend.create(name, _checked_uri(model_uri), flavor, config or {})
            if endpoint is not None:
                self._put_under(endpoint, name)
            return created

    def update_deployment(
        self,
        name: str,
        model_uri: str | None = None,
        flavor: str | None = None,
        config: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Serve another model or version, or the same one in another way, without losing requests.

        Starts a deployment that is stopped, failed or lost. One that is running is replaced by a new server when that
        answers; if it does not, the old one goes on.

        Args:
            name: Of the deployment.
            model_uri: None: the model that it has.
            flavor: That the new model must have.
            config: What changes; the rest stays, also within settings that are dictionaries. None gives a setting its
                default again, or takes a key out of such a dictionary.
            endpoint: The deployment must be under it.

        Returns:
            What `get_deployment` returns.

        Raises:
            MlflowException: There is no such deployment or model, or the new version did not become ready.
        """
        with reported():
            self._check_membership(name, endpoint)
            uri = None if model_uri is None else _checked_uri(model_uri)
            return self._backend.update(name, uri, flavor, config or {})

    def delete_deployment(
        self, name: str, config: Mapping[str, Any] | None = None, endpoint: str | None = None
    ) -> None:
        """Stop a deployment and forget it, also in endpoints; one that is not there is no error.

        Args:
            name: Of the deployment.
            config: Nothing can be set.
            endpoint: The deployment must be under it, if it is there.

        Raises:
            MlflowException: Its processes cannot be ended from here.
        """
        with reported():
            if config:
                raise InvalidInputError(f"config: a deletion has no settings, got {', '.join(map(str, config))}.")
            if self._backend.exists(name):
                self._check_membership(name, endpoint)
            self._backend.delete(name)
            self._endpoints.forget(name)

    def list_deployments(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """What `get_deployment` returns, of all deployments, or of those under an endpoint."""
        with reported():
            found = self._backend.list()
            if endpoint is None:
                return found
            names = self._endpoints.get(endpoint).traffic
            return [deployment for deployment in found if deployment["name"] in names]

    def get_deployment(self, name: str, endpoint: str | None = None) -> dict[str, Any]:
        """The deployment's state and its reason, address, model, processes, memory and last error.

        Raises:
            MlflowException: There is no such deployment.
        """
        with reported():
            self._check_membership(name, endpoint)
            return self._backend.get(name)

    def predict(
        self, deployment_name: str | None = None, inputs: Any = None, endpoint: str | None = None
    ) -> PredictionsResponse:
        """Ask a deployment, or one of an endpoint's by their shares.

        Args:
            deployment_name: Either this or `endpoint`.
            inputs: A dictionary with `messages`, `prompt`, `inputs` or another payload of MLflow's scoring server; a
                string, a list, an array or a DataFrame.
            endpoint: Either this or `deployment_name`.

        Returns:
            The answer; for `messages` and `prompt` OpenAI's, with `predictions`, the texts, beside it.

        Raises:
            MlflowException: With the server's own reason.
        """
        with reported():
            address = self._address(deployment_name, endpoint)
            request = request_of(raw_input(inputs), address.is_ours)
            return predictions_of(self._caller.predict(address, request))

    def predict_stream(
        self, deployment_name: str | None = None, inputs: Any = None, endpoint: str | None = None
    ) -> Iterator[dict[str, Any]]:
        """The chunks of an answer to `messages` or `prompt` as they come, in OpenAI's shape.

        Raises:
            MlflowException: Also while the chunks come.
        """
        with reported():
            address = self._address(deployment_name, endpoint)
            chunks = self._caller.stream(address, stream_request_of(inputs, address.is_ours))
        return _reported(chunks)

    def explain(self, deployment_name: str | None = None, df: Any = None, endpoint: str | None = None) -> Any:
        """Not there.

        Raises:
            MlflowException: Always, with what to do.
        """
        with reported():
            raise UnsupportedFeatureError(
                "The target `local` explains no predictions: the servers of MLflow have no route for it. Load the "
                "model by mlflow.pyfunc.load_model and use mlflow.shap."
            )

    def create_endpoint(self, name: str, config: Mapping[str, Any] | None = None) -> EndpointDescription:
        """Make an endpoint.

        Args:
            name: Letters, digits, dots, dashes and underscores.
            config: `traffic`: shares of deployments, `{"a": 90, "b": 10}` or "a=90,b=10"; none: they come later.

        Raises:
            MlflowException: The name is taken, or there is no such deployment.
        """
        with reported():
            return self._described(self._endpoints.create(name, config or {}))

    def update_endpoint(self, endpoint: str, config: Mapping[str, Any] | None = None) -> EndpointDescription:
        """Share out the traffic of an endpoint in another way, see `create_endpoint`.

        Raises:
            MlflowException: There is no such endpoint or deployment.
        """
        with reported():
            return self._described(self._endpoints.update(endpoint, config or {}))

    def delete_endpoint(self, endpoint: str) -> None:
        """Forget an endpoint, not its deployments; one that is not there is no error."""
        with reported():
            self._endpoints.delete(endpoint)

    def list_endpoints(self) -> list[EndpointDescription]:
        """What `get_endpoint` returns, of all endpoints."""
        with reported():
            return list(map(self._described, self._endpoints.list()))

    def get_endpoint(self, endpoint: str) -> EndpointDescription:
        """The endpoint's traffic and task. Cheap: MLflow asks before each row that it evaluates.

        Raises:
            MlflowException: There is no such endpoint.
        """
        with reported():
            return self._described(self._endpoints.get(endpoint))

    def _described(self, endpoint: Endpoint) -> EndpointDescription:
        task = next(filter(None, map(self._backend.task_if_known, endpoint.traffic)), None)
        return EndpointDescription(
            name=endpoint.name,
            task=task,
            endpoint_type=task,
            traffic=dict(endpoint.traffic),
            created=endpoint.created,
            updated=endpoint.updated,
        )

    def _put_under(self, endpoint: str, name: str) -> None:
        """Or leave nothing of the deployment, as where it was not made."""
        try:
            self._endpoints.add(endpoint, name)
        except BaseException:
            self._backend.delete(name)
            raise

    def _check_membership(self, name: str, endpoint: str | None) -> None:
        if endpoint is not None and name not in (traffic := self._endpoints.get(endpoint).traffic):
            raise InvalidInputError(
                f"Deployment {name!r} is not under endpoint {endpoint!r}, which has: {', '.join(traffic) or 'none'}."
            )

    def _address(self, name: str | None, endpoint: str | None) -> Address:
        if (name is None) == (endpoint is None):
            raise InvalidInputError(f"Give either a deployment's name or an endpoint, got {name!r} and {endpoint!r}.")
        return self._backend.address(name) if name is not None else self._drawn(str(endpoint))

    def _drawn(self, name: str) -> Address:
        """The address of one of the deployments of an endpoint that are ready, or else run."""
        endpoint = self._endpoints.get(name)
        running = {each: found for each in endpoint.traffic if (found := self._backend.address_if_running(each))}
        ready = {each for each, (_, is_ready) in running.items() if is_ready}
        drawn = endpoint.draw(ready) or endpoint.draw(running)  # else it waits with those that start
        if drawn is None:
            raise EngineUnavailableError(
                f"No deployment with traffic under endpoint {name!r} is running; it has: "
                f"{', '.join(endpoint.traffic) or 'none'}. `{shell_command('list', self.target_uri)}` says why."
            )
        return running[drawn][0]


def _reported(chunks: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    with reported():
        yield from chunks


def _checked_uri(uri: Any) -> str:
    if not uri or not isinstance(uri, (str, os.PathLike)):
        raise InvalidInputError(f"model_uri must be the URI or the directory of a model, got {uri!r}.")
    return os.fspath(uri)
