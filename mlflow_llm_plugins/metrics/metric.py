"""A metric: one score a row, or NaN with the reason, and figures over the rows that have a score.

`LLMMetric` is MLflow's `EvaluationMetric`, so it goes into `extra_metrics` of any evaluator; called on lists, it works
alone. Of MLflow the metrics know this file, `models.py`, and the judges that are asked by MLflow's own clients.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
from mlflow.metrics.base import MetricValue
from mlflow.models.evaluation.base import EvaluationMetric as EvaluationMetric

from mlflow_llm_plugins.errors import InvalidInputError, MissingDependencyError

Aggregates = Mapping[str, float]
Score = tuple[float, str | None]  # of a row, and a note on it: why it has none, or what it does not count
_KEY_PART = re.compile(r"[\w\-.: ]+")  # of MLflow's keys, without the slash, which parts them
_MAX_KEY_LENGTH = 250  # MLflow 3.17 stores no longer ones
_MAX_NAME_LENGTH = 200  # with the version; the rest is for the names of figures
_STANDARD_FIGURES = frozenset({"mean", "variance", "p90", "count"})  # of `row_scores`


class NotScoredError(Exception):
    """Raised by the score of one row that has none; the message is the reason, and never holds the row's text."""


@dataclass
class RowScores(MetricValue):
    """What a metric returns: MLflow's `MetricValue`, with more columns for the table.

    `scores` has one float a row, NaN where there is no score; `justifications` the reason or the judge's words there,
    else None; `aggregate_results` figures over the valid rows.
    """

    columns: dict[str, list[Any]] = field(default_factory=dict)  # name -> one value a row


class LLMMetric(EvaluationMetric):
    """A metric of this package.

    Its `eval_fn` gets columns by the names of its parameters: `predictions`, `targets`, `inputs`, `context`, any other
    column of the data, and in the evaluator `llm` what that measured. Parameters without a default are needed.
    """

    def __init__(
        self,
        eval_fn: Callable[..., RowScores],
        name: str,
        *,
        greater_is_better: bool | None,
        main: str = "mean",
        figures: Iterable[str] = (),
        version: str | None = "v1",
        metric_details: str | None = None,
        metric_metadata: Mapping[str, Any] | None = None,
        prepare: Callable[[Any], object] | None = None,
    ) -> None:
        """Describe the metric.

        Args:
            eval_fn: Columns in, each with one value a row, scores out. Explicit parameters only.
            name: Its key in results, `name/version/aggregate`.
            greater_is_better: For comparisons; None where neither is better, or nobody knows.
            main: The aggregate that stands for the metric: the evaluator `llm` gives it under the bare name, too.
            figures: Those that it gives besides `mean`, `variance`, `p90` and `count`; a metric may not be called like
                one of its figures, because MLflow's keys would be the same.
            version: As MLflow's own; None for none.
            metric_details: How it is computed, and the source of the formula.
            metric_metadata: What a score depends on and must be logged with it: settings, versions, prompts. JSON.
            prepare: Gets the evaluated model's engine or None, before rows are answered; loads the models that the
                metric asks, or raises an `LLMError` where it can never be computed.

        Raises:
            InvalidInputError: The name or version cannot be a part of a key in MLflow, or a figure is called like it.
        """
        _check_key(name, version)
        _check_no_figure(name, _STANDARD_FIGURES.union(figures))
        super().__init__(
            eval_fn=eval_fn,
            name=name,
            greater_is_better=greater_is_better,
            version=version,
            metric_details=metric_details,
            metric_metadata=dict(metric_metadata or {}),
        )
        self.main = main
        self.prepare = prepare

    def __call__(self, *columns: Iterable[Any], **named: Any) -> RowScores:
        """Score lists, or anything else that can be iterated over.

        Args:
            *columns: In the order of the metric's parameters, the predictions first for most.
            **named: By the parameters' names.

        Raises:
            InvalidInputError: A column is missing, unknown, none, or has another length than the first.
        """
        signature = inspect.signature(self.eval_fn)
        try:
            bound = signature.bind(*columns, **named)
        except TypeError as error:
            raise InvalidInputError(f"Metric {self.name!r}: {error}. It takes: {_shown(signature)}.") from error
        needed = {name for name, parameter in signature.parameters.items() if parameter.default is parameter.empty}
        given = {name: _listed(name, column, name in needed) for name, column in bound.arguments.items()}
        lengths = {name: len(column) for name, column in given.items() if isinstance(column, list)}
        if len(set(lengths.values())) > 1:
            raise InvalidInputError(f"Metric {self.name!r}: columns must have the same length, got {lengths}.")
        scores: RowScores = self.eval_fn(**given)
        return scores


def row_scores(
    scores: Sequence[float | None],
    reasons: Sequence[str | None] = (),
    *,
    aggregates: Aggregates | None = None,
    columns: Mapping[str, Sequence[Any]] | None = None,
) -> RowScores:
    """Put scores together, with `mean`, `variance` (of the population), `p90` and `count` of the valid ones.

    Args:
        scores: One a row; None or NaN: there is none.
        reasons: One a row, or none at all: why there is no score, or what justifies it.
        aggregates: More figures, or others of the same names; NaN leaves a figure out.
        columns: More values a row, for the table.
    """
    values = [math.nan if score is None else float(score) for score in scores]
    valid = [value for value in values if math.isfinite(value)]
    figures = {**_standard(valid), **(aggregates or {}), "count": len(valid)}
    return RowScores(
        scores=values,
        justifications=list(reasons) if any(reasons) else None,
        aggregate_results={name: float(value) for name, value in figures.items() if not math.isnan(value)},
        columns={name: list(column) for name, column in (columns or {}).items()},
    )


def score_each(score: Callable[..., float], *columns: Iterable[Any], **options: Any) -> RowScores:
    """Score rows one by one; see `scored_each`, whose result `row_scores` puts together."""
    return row_scores(*scored_each(score, *columns, **options))


def scored_each(
    score: Callable[..., float], *columns: Iterable[Any], names: Sequence[str] = ("prediction", "target")
) -> tuple[list[float], list[str | None]]:
    """Score rows one by one; whatever is wrong with one leaves the others alone.

    Args:
        score: Gets one text of each column; raises `NotScoredError` where it has no score.
        *columns: Of the same length.
        names: What a cell of each column is called in reasons.

    Returns:
        A score a row, NaN where there is none, and the reason there, else None.
    """

    def scored(*cells: object) -> Score:
        return float(score(*(text_of(cell, name) for cell, name in zip(cells, names, strict=False)))), None

    rows = [guarded(scored, *cells) for cells in zip(*columns, strict=True)]
    return [value for value, _ in rows], [reason for _, reason in rows]


def guarded(score: Callable[..., Score], *cells: object) -> Score:
    """The score of one row; NaN and the reason where it has none, whatever went wrong.

    Args:
        score: Gets the cells, returns a score with a note or None.
        *cells: Of the row.

    Raises:
        MissingDependencyError: Of all rows alike, and with the remedy.
    """
    try:
        return score(*cells)
    except NotScoredError as reason:
        return math.nan, str(reason)
    except MissingDependencyError:
        raise
    except Exception as error:  # of a library, on a text that it was not made for; its message may repeat the text
        return math.nan, f"the metric failed with {type(error).__name__}"


def text_of(cell: object, name: str) -> str:
    """The cell's text.

    Raises:
        NotScoredError: It is missing or no text.
    """
    if isinstance(cell, str):
        return cell
    if is_missing(cell):
        raise NotScoredError(f"the {name} is missing")
    raise NotScoredError(f"the {name} is of type {type(cell).__name__}, not text")


def is_missing(cell: object) -> bool:
    """Whether the cell is None, NaN or pandas' NA."""
    if cell is None or type(cell).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(cell, Real) and bool(cell != cell)  # math.isnan fails on integers beyond floats


def _check_key(name: object, version: object) -> None:
    """Refuse here what MLflow would refuse at the end of an evaluation."""
    _check_key_part("name", name)
    if version is not None:
        _check_key_part("version", version)
    length = len(f"{name}/{version}" if version else str(name))
    if length > _MAX_NAME_LENGTH:
        raise InvalidInputError(
            f"A metric's name and version may have {_MAX_NAME_LENGTH} characters together, got {length}: MLflow "
            f"stores keys of {_MAX_KEY_LENGTH}, and the names of figures come behind."
        )


def _check_key_part(what: str, part: object) -> None:
    is_path = part == "." or str(part).startswith("..")  # some of MLflow's stores make files of keys
    if not isinstance(part, str) or not _KEY_PART.fullmatch(part) or is_path:
        raise InvalidInputError(
            f"A metric's {what} may have letters, digits, blanks and any of _-.: and may not be empty, nor '.', nor "
            f"begin with '..', got {part!r}."
        )


def _check_no_figure(name: str, figures: Iterable[str]) -> None:
    if name in figures:
        raise InvalidInputError(
            f"A metric cannot be called {name!r}, which is the name of one of its figures. Give another one, such as "
            f"{'my_' + name!r}."
        )


def _shown(signature: inspect.Signature) -> str:
    """The parameters without their types."""
    bare = [parameter.replace(annotation=parameter.empty) for parameter in signature.parameters.values()]
    return str(inspect.Signature(bare))[1:-1]


def _standard(valid: Sequence[float]) -> dict[str, float]:
    if not valid:
        return {}
    return {"mean": float(np.mean(valid)), "variance": float(np.var(valid)), "p90": float(np.percentile(valid, 90))}


def _listed(name: str, column: Any, is_needed: bool) -> Any:
    """Columns as lists; what is no column, such as an engine, as it is where the metric can do without it."""
    if isinstance(column, str | bytes):
        raise InvalidInputError(f"{name} must be a list with one value a row, got a string: {column[:40]!r}.")
    is_frame = hasattr(column, "columns") and getattr(column, "ndim", 1) == 2  # iterates over its columns' names
    is_column = isinstance(column, Iterable) and not isinstance(column, Mapping) and getattr(column, "ndim", 1) > 0
    if is_frame or (is_needed and not is_column):
        kind = "None" if column is None else type(column).__name__
        hint = " Give one of its columns." if is_frame else ""
        raise InvalidInputError(f"{name} must be a list with one value a row, got {kind}.{hint}")
    return list(column) if is_column else column
