"""Functions and models of other flavors, asked one row at a time by threads."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

from mlflow_llm_plugins.evaluation.predictions.features import Features
from mlflow_llm_plugins.evaluation.predictions.options import PredictOptions
from mlflow_llm_plugins.evaluation.predictions.outputs import read_output
from mlflow_llm_plugins.evaluation.predictions.pool import ask_each
from mlflow_llm_plugins.evaluation.predictions.prediction import Prediction
from mlflow_llm_plugins.evaluation.predictions.sample import Sample


@dataclass(frozen=True, slots=True)
class RowwiseSource:
    """Each row in a call of its own, so that one that fails leaves the others alone."""

    model: Any
    features: Features
    options: PredictOptions
    workers: int

    @classmethod
    def of(cls, model: Any, features: Features, options: PredictOptions) -> RowwiseSource | None:
        """None where nothing can be called."""
        if not hasattr(model, "predict"):
            return None
        return cls(model, features, options, 1 if _is_one_at_a_time(model) else options.max_workers)

    @property
    def can_stream(self) -> bool:
        """Only whole answers are seen."""
        return False

    @property
    def runs_here(self) -> bool:
        """Not where MLflow serves it in another environment."""
        return not _is_served(self.model)

    @property
    def gives_columns(self) -> bool:
        """Tables and dictionaries have them."""
        return True

    def predict_all(self, *, progress: bool = True) -> list[Prediction]:
        """See `Source`."""
        return ask_each(self._ask, len(self.features), self.workers, progress=progress)

    def predict_unloaded(self, size: int, seed: int = 0, *, progress: bool = True) -> list[Prediction | None]:
        """See `Source`."""
        sample = Sample.of(len(self.features), size, seed)
        sample.warm_up(self._ask)
        measured = ask_each(lambda i: self._ask(sample.rows[i]), len(sample.rows), 1, progress=progress)
        return sample.spread(measured, len(self.features))

    def describe(self) -> dict[str, Any]:
        """See `Source`."""
        return {"source": "model", "max_in_flight": self.workers, "params": dict(self.options.params)}

    def _ask(self, row: int) -> Prediction:
        data, params = self.features.row(row), dict(self.options.params)
        started = time.perf_counter()
        # Functions take no params, and MLflow warns at each call that gives some.
        result = self.model.predict(data, params=params) if params else self.model.predict(data)
        latency = time.perf_counter() - started
        return replace(read_output(result, self.options.predictions_column), latency=latency)


def _is_served(model: Any) -> bool:
    """Whether MLflow runs the model in a process of its own."""
    return getattr(model, "_client", None) is not None


def _is_one_at_a_time(model: Any) -> bool:
    """A model that MLflow runs in another environment without ports writes all answers into one file."""
    return type(getattr(model, "_client", None)).__name__ == "StdinScoringServerClient"
