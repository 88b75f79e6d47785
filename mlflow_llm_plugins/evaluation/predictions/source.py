"""What answers the rows of an evaluation, found from the model that MLflow hands over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.evaluation.predictions.endpoint import EndpointSource
from mlflow_llm_plugins.evaluation.predictions.engine import EngineSource
from mlflow_llm_plugins.evaluation.predictions.features import Features
from mlflow_llm_plugins.evaluation.predictions.options import PredictOptions
from mlflow_llm_plugins.evaluation.predictions.prediction import Prediction
from mlflow_llm_plugins.evaluation.predictions.rowwise import RowwiseSource
from mlflow_llm_plugins.evaluation.predictions.static import StaticSource

__all__ = ["PredictOptions", "Source", "source_of"]


class Source(Protocol):
    """Something that answers all rows of the data. A row without an answer has its reason; only what is wrong with
    all rows is raised.
    """

    @property
    def can_stream(self) -> bool:
        """Whether single tokens are timed; of endpoints certain only after `predict_unloaded`."""

    @property
    def runs_here(self) -> bool:
        """Whether the model is in this process, so that memory and CPU time of the process are the model's."""

    @property
    def gives_columns(self) -> bool:
        """Whether answers may come with other columns, which are known only then."""

    def predict_all(self, *, progress: bool = True) -> list[Prediction]:
        """Answers to all rows, as many in flight as allowed; their times are those of a loaded model.

        Raises:
            InvalidInputError: Parameters that are wrong for any row.
        """

    def predict_unloaded(self, size: int, seed: int = 0, *, progress: bool = True) -> list[Prediction | None]:
        """Answers to a random sample of `size` rows, one at a time and after a request to warm up; None for the rest.

        Comes before `predict_all`, or engines and servers answer from caches that hold these rows already.

        Raises:
            InvalidInputError: As `predict_all`.
        """

    def describe(self) -> dict[str, Any]:
        """What answers and how it is asked, as JSON, to be logged."""


# Tried in this order; the first that knows the model takes it.
SOURCES: tuple[Callable[[Any, Features, PredictOptions], Source | None], ...] = (
    EngineSource.of,
    EndpointSource.of,
    RowwiseSource.of,
)


def source_of(
    model: Any,
    features: Any,
    options: PredictOptions | None = None,
    *,
    feature_names: Sequence[str] | None = None,
    predictions: Iterable[Any] | None = None,
) -> Source:
    """Find out how the rows are answered.

    Args:
        model: As an evaluator gets it: a `PyFuncModel`, or a function or endpoint in MLflow's wrapper; None for
            `predictions`.
        features: A DataFrame or an array, without the columns of targets and predictions.
        options: None takes the defaults.
        feature_names: Of an array's columns.
        predictions: Finished ones, one a row.

    Raises:
        InvalidInputError: There is nothing to ask; no column to ask with, or several; another number of predictions.
        MlflowException: The deployments client's, where it does not know the endpoint.
    """
    table = Features(features, feature_names)
    if not len(table):
        raise InvalidInputError("There are no rows to evaluate; give at least one.")
    if model is None:
        if predictions is None:
            raise InvalidInputError(
                "There is nothing to evaluate: give a model, or predictions=..., a column of data."
            )
        return StaticSource.of(predictions, len(table))
    for find in SOURCES:
        if (source := find(model, table, options or PredictOptions())) is not None:
            return source
    raise InvalidInputError(f"The model cannot be asked: {type(model).__name__} has no predict().")
