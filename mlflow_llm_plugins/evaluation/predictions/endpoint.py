"""Endpoints and deployments, asked by the client of MLflow's deployments target."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mlflow_llm_plugins.errors import InvalidInputError, UnsupportedFeatureError
from mlflow_llm_plugins.evaluation.predictions.completion import is_completion, read_completion, read_stream
from mlflow_llm_plugins.evaluation.predictions.failures import NoAnswerError
from mlflow_llm_plugins.evaluation.predictions.features import Features
from mlflow_llm_plugins.evaluation.predictions.options import PredictOptions
from mlflow_llm_plugins.evaluation.predictions.outputs import read_output
from mlflow_llm_plugins.evaluation.predictions.pool import ask_each
from mlflow_llm_plugins.evaluation.predictions.prediction import Prediction
from mlflow_llm_plugins.evaluation.predictions.sample import Sample

_logger = logging.getLogger(__name__)

_IN_FLIGHT = 32
_CHAT, _COMPLETIONS = "llm/v1/chat", "llm/v1/completions"
_OF_TEXTS = (_CHAT, _COMPLETIONS, None)  # None: not told
_TARGET = "MLFLOW_DEPLOYMENTS_TARGET"
_WITH_USAGE = {"stream_options": {"include_usage": True}}
_STREAMS: tuple[Mapping[str, Any], ...] = (_WITH_USAGE, {})  # what streams are asked for with, the best first


class EndpointSource:
    """As many rows in flight as allowed, each in a request of its own; how long one may take is up to the client."""

    def __init__(
        self, client: Any, endpoint: str, rows: Sequence[Any], params: Mapping[str, Any], max_in_flight: int
    ) -> None:
        """Ask what the endpoint does; see `of`."""
        self._client = client
        self._endpoint = endpoint
        self._rows = rows
        self._params = params
        self._max_in_flight = max_in_flight
        self._task = _task_of(client.get_endpoint(endpoint))
        self._check_choices(params)
        self._streams = _STREAMS if hasattr(client, "predict_stream") else ()

    @classmethod
    def of(cls, model: Any, features: Features, options: PredictOptions) -> EndpointSource | None:
        """None where the model is no endpoint as MLflow wraps it for evaluations.

        Raises:
            InvalidInputError: No deployments target is set.
            UnsupportedFeatureError: `params` ask for several answers to a row.
            MlflowException: The client's, where there is no such endpoint.
        """
        from mlflow.deployments import get_deploy_client
        from mlflow.pyfunc.model import ModelFromDeploymentEndpoint

        wrapped = getattr(model, "python_model", None)
        if not isinstance(wrapped, ModelFromDeploymentEndpoint):
            return None
        if (client := get_deploy_client()) is None:
            raise InvalidInputError(
                f"The endpoint {wrapped.endpoint!r} cannot be asked, as no deployments target is set: set {_TARGET}, "
                "for example to local, or call mlflow.deployments.set_deployments_target('http://localhost:5000')."
            )
        rows = features.inputs(options.input_column)
        params = {**(wrapped.params or {}), **options.params}
        return cls(client, wrapped.endpoint, rows, params, options.max_in_flight or _IN_FLIGHT)

    @property
    def can_stream(self) -> bool:
        """Whether, as far as is known, single tokens can be timed."""
        return bool(self._streams)

    @property
    def runs_here(self) -> bool:
        """It is behind HTTP."""
        return False

    @property
    def gives_columns(self) -> bool:
        """Texts only."""
        return False

    def predict_all(self, *, progress: bool = True) -> list[Prediction]:
        """See `Source`."""
        rows, most = len(self._rows), self._max_in_flight
        return ask_each(lambda row: self._whole(self._payload(row)), rows, most, progress=progress)

    def predict_unloaded(self, size: int, seed: int = 0, *, progress: bool = True) -> list[Prediction | None]:
        """See `Source`; the first requests find out whether the endpoint streams."""
        sample = Sample.of(len(self._rows), size, seed)
        self._warm_up(sample)
        measured = ask_each(lambda i: self._ask(sample.rows[i]), len(sample.rows), 1, progress=progress)
        return sample.spread(measured, len(self._rows))

    def describe(self) -> dict[str, Any]:
        """See `Source`."""
        return {
            "source": "endpoint",
            "endpoint": self._endpoint,
            "task": self._task,
            "max_in_flight": self._max_in_flight,
            "params": dict(self._params),
        }

    def _whole(self, payload: Mapping[str, Any]) -> Prediction:
        started = time.perf_counter()
        answer = self._client.predict(endpoint=self._endpoint, inputs=payload)
        latency = time.perf_counter() - started
        return replace(self._read(answer), latency=latency)

    def _streamed(self, payload: Mapping[str, Any]) -> Prediction:
        inputs = {**payload, **self._streams[0]}
        started = time.perf_counter()
        return read_stream(self._client.predict_stream(endpoint=self._endpoint, inputs=inputs), started)

    def _ask(self, row: int) -> Prediction:
        """By a stream, where the endpoint has them."""
        payload = self._payload(row)  # what is wrong with it tells nothing of streams
        if not self._streams:
            return self._whole(payload)
        try:
            return self._streamed(payload)
        except Exception as error:
            if not _is_unsupported(error):
                raise
        self._streams = ()
        return self._whole(payload)

    def _warm_up(self, sample: Sample) -> None:
        """Ask until a row is answered; a way to ask for streams in which none is answered is not tried again."""
        hoped = bool(self._streams)
        while not (is_answered := sample.warm_up(self._ask)) and self._streams:
            self._streams = self._streams[1:]
        if hoped and is_answered and not self._streams:  # else it is not streaming that is refused
            _logger.warning("Endpoint %r does not stream: only whole answers are timed.", self._endpoint)

    def _payload(self, row: int) -> dict[str, Any]:
        payload = {**_payload_of(self._rows[row], self._task), **self._params}
        self._check_choices(payload)
        return payload

    def _check_choices(self, asked: Mapping[str, Any]) -> None:
        n = asked.get("n")
        if self._task in _OF_TEXTS and n not in (None, 1):
            raise UnsupportedFeatureError(f"n={n!r} is not supported for rows, which get one text each; leave n out.")

    def _read(self, answer: Any) -> Prediction:
        if is_completion(answer):
            return read_completion(answer)
        if self._task in (_CHAT, _COMPLETIONS):
            raise NoAnswerError("the answer has no text")
        if not isinstance(answer, Mapping):
            return read_output(answer, None)
        return read_output(answer["predictions"], None) if "predictions" in answer else Prediction(output=dict(answer))


def _payload_of(cell: Any, task: str | None) -> dict[str, Any]:
    """The request for a row, as MLflow makes it of strings and dicts; a list of messages is a chat."""
    if isinstance(cell, str):
        if task not in (None, _CHAT, _COMPLETIONS):
            raise InvalidInputError(f"An endpoint of type {task!r} needs whole requests as rows, got a string.")
        return {"prompt": cell} if task == _COMPLETIONS else {"messages": [{"role": "user", "content": cell}]}
    if isinstance(cell, Mapping):
        return dict(cell)
    if isinstance(cell, list) and cell and all(isinstance(message, Mapping) for message in cell):
        return {"messages": cell}
    shown = repr(cell) if cell is None or isinstance(cell, int | float) else type(cell).__name__
    raise InvalidInputError(f"A row must be a string, a list of messages or a request as a dict, got {shown}.")


def _task_of(endpoint: Any) -> str | None:
    """What clients call `task` or `endpoint_type`, in a dict or an object."""
    if isinstance(endpoint, Mapping):
        return endpoint.get("task") or endpoint.get("endpoint_type")
    return getattr(endpoint, "task", None) or getattr(endpoint, "endpoint_type", None)


def _is_unsupported(error: BaseException) -> bool:
    """Whether a client says that it has no streams at all; ours says it to MLflow, in an exception of MLflow's."""
    return any(isinstance(known, NotImplementedError | UnsupportedFeatureError) for known in (error, error.__cause__))
