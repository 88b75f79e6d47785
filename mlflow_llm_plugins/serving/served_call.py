"""One HTTP request as the engine sees it: held to the server's limits, counted, and ended with its client."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from mlflow_llm_plugins.errors import RequestCancelledError
from mlflow_llm_plugins.generation import GenerationOutput, GenerationRequest
from mlflow_llm_plugins.generation.call_scope import CallScope
from mlflow_llm_plugins.serving.limits import admitted
from mlflow_llm_plugins.serving.metrics import Metrics
from mlflow_llm_plugins.serving.settings import ServingSettings
from mlflow_llm_plugins.serving.slots import Slots
from mlflow_llm_plugins.serving.tracing import RequestTrace


class ServedCall(CallScope):
    """Stands around all that a request makes the engine do, be it by our routes or by MLflow's. `close` it."""

    def __init__(
        self, slots: Slots, settings: ServingSettings, metrics: Metrics, trace: RequestTrace | None = None
    ) -> None:
        """Take nothing yet; `trace` is told what MLflow's own predict finishes."""
        super().__init__()
        self._trace = trace
        self._slots = slots
        self._settings = settings
        self._metrics = metrics
        self._granted = 0
        self._is_closed = False
        self._closing = threading.Lock()  # of both

    def admit(self, requests: Sequence[GenerationRequest]) -> Sequence[GenerationRequest]:
        """The requests within the server's limits; takes slots for them.

        Raises:
            InvalidInputError: More is asked for than the server allows.
            QueueFullError: No slot is free.
            RequestCancelledError: The call was closed meanwhile.
        """
        requests = admitted(requests, self._settings)
        with self._closing:
            if self._is_closed:
                raise RequestCancelledError("The request was cancelled.")
            self._granted += self._slots.take(max(1, len(requests)))
        return requests

    def window(self, wanted: int) -> int:
        """As many as there are slots for."""
        return max(1, min(wanted, self._granted))

    def finished(self, outputs: Sequence[GenerationOutput]) -> None:
        """Count them."""
        self._metrics.answered(outputs)
        if self._trace is not None:
            self._trace.spent(sum(output.prompt_tokens for output in outputs), outputs)

    def close(self) -> None:
        """End what is open and free the slots; harmless when that was done."""
        self._metrics.cancelled(self.cancel())
        with self._closing:
            self._is_closed = True
            self._slots.give_back(self._granted)
            self._granted = 0
