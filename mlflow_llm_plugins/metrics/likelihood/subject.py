"""The model that a metric measures, and which column has its texts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, get_args

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.lookup import did_you_mean
from mlflow_llm_plugins.metrics.engines import ScoringEngine, engine_of
from mlflow_llm_plugins.metrics.metric import RowScores
from mlflow_llm_plugins.metrics.models import ModelHandle

TextColumn = Literal["predictions", "targets", "inputs"]
_COLUMNS = get_args(TextColumn)


class Subject:
    """A model given to the metric, or else the one that is evaluated."""

    def __init__(self, model: Any, metric: str) -> None:
        """Take the model.

        Args:
            model: What `ModelHandle` takes; None for the evaluated model.
            metric: The metric's function, in messages.
        """
        self._handle = None if model is None else ModelHandle(model, f"{metric}(model=...)")
        self._metric = metric

    def engine(self, evaluated: Any) -> ScoringEngine:
        """The engine to ask.

        Args:
            evaluated: The evaluated model, where there is one.

        Raises:
            InvalidInputError: There is no model, or none whose probabilities can be read.
        """
        if self._handle is not None:
            return self._handle.engine()
        if evaluated is None:
            raise InvalidInputError(
                f"{self._metric} has no model to ask. Give {self._metric}(model=...) one of the flavor quantized_llm, "
                "or evaluate such a model with evaluators='llm'."
            )
        return engine_of(evaluated, self._metric)


def check_column(texts: str | None, metric: str) -> None:
    """Refuse what is no column of texts.

    Raises:
        InvalidInputError: Names those that are.
    """
    if texts is not None and texts not in _COLUMNS:
        raise InvalidInputError(
            f"{metric}(texts=...) must be one of {', '.join(map(repr, _COLUMNS))} or None, got {texts!r}."
            f"{did_you_mean(texts, _COLUMNS)}"
        )


def declare_needed(eval_fn: Callable[..., RowScores], texts: TextColumn | None) -> Callable[..., RowScores]:
    """Declare the column as needed, so that evaluators can refuse the metric before the rows are answered.

    Args:
        eval_fn: Can do without any column; gets a signature with the parameters in the same order, those from the
            needed one on by name where others stand before it.
        texts: The column that was chosen; None leaves the function as it is.
    """
    if texts is None:
        return eval_fn
    declared: list[inspect.Parameter] = []
    by_name = False
    for parameter in inspect.signature(eval_fn).parameters.values():
        if parameter.name == texts:
            by_name = bool(declared)  # Python has nothing else that is needed behind what has a default
            parameter = parameter.replace(default=parameter.empty)
        declared.append(parameter.replace(kind=parameter.KEYWORD_ONLY if by_name else parameter.kind))
    eval_fn.__signature__ = inspect.Signature(declared)  # type: ignore[attr-defined]
    return eval_fn


def choose_column(
    texts: TextColumn | None, columns: Mapping[TextColumn, Iterable[Any] | None], metric: str
) -> tuple[str, list[Any]]:
    """What a cell is called in reasons, and the cells.

    Args:
        texts: The column; None: the targets where there are any, else the predictions.
        columns: Those that were given, the others None.
        metric: The metric's function, in messages.

    Raises:
        InvalidInputError: There is no such column.
    """
    name: TextColumn = texts or ("predictions" if columns["targets"] is None else "targets")
    cells = columns[name]
    if cells is None:
        raise InvalidInputError(f"{metric}(texts={texts!r}) needs the column {name!r}, which was not given.")
    return name.removesuffix("s"), list(cells)
