"""Any metric of Hugging Face's library `evaluate`, by its name on the Hub or as a local script."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.metrics.metric import LLMMetric, RowScores, is_missing, row_scores
from mlflow_llm_plugins.metrics.reference.hub_module import LazyModule, find_script
from mlflow_llm_plugins.metrics.reference.rows import is_list

_COLUMNS = {"predictions": "predictions", "references": "targets", "sources": "inputs"}  # evaluate's name -> MLflow's
_ONE_FIGURE = "one figure for all rows"


def evaluate_metric(
    name: str, *, config_name: str | None = None, main: str | None = None, **compute: Any
) -> LLMMetric:
    """A metric of `evaluate`; its script is loaded, and run, at the first evaluation.

    A list with one value a row becomes the rows' scores, and single figures become aggregates under their own names.
    Rows without a prediction or target are left out.

    Args:
        name: "meteor", "owner/name" on the Hub, "./dir/met.py", or "./dir" which holds "dir.py". A bare name is never
            looked for in the working directory.
        config_name: As `evaluate.load` takes it.
        main: The key of the result that stands for the metric; default: the one named like it, else the first.
        **compute: As the script's `compute` takes them.

    Raises:
        InvalidInputError: There is no such script.
        MissingDependencyError: `evaluate` is not installed.
    """
    script = find_script(name)
    module = LazyModule(script, config_name)

    def eval_fn(
        predictions: Iterable[Any], targets: Iterable[Any] | None = None, inputs: Iterable[Any] | None = None
    ) -> RowScores:
        given = {"predictions": predictions, "targets": targets, "inputs": inputs}
        columns = {name: list(column) for name, column in given.items() if column is not None}
        scores: RowScores = module.use(lambda loaded: _evaluate(loaded, script.name, main, columns, compute))
        return scores

    return LLMMetric(
        eval_fn,
        script.name,
        greater_is_better=True,
        main=script.name,
        version=None,
        metric_details=f"{script.source} by Hugging Face's evaluate.",
        metric_metadata={"source": script.source, "config_name": config_name, "compute": _json(compute)},
    )


def _evaluate(
    module: Any, name: str, main: str | None, columns: Mapping[str, list[Any]], compute: Mapping[str, Any]
) -> RowScores:
    used = _used_columns(module, name, columns)
    reasons = [_missing(cells, used) for cells in zip(*used.values(), strict=True)]
    rows = [index for index, reason in enumerate(reasons) if reason is None]
    if not rows:
        return row_scores([math.nan] * len(reasons), reasons)
    valid = {key: [column[index] for index in rows] for key, column in used.items()}
    result = _compute(module, valid, compute)
    keys = _row_keys(module, valid, compute, result)
    values = {key: _spread(result[key], rows, len(reasons)) for key in keys}
    figures = {key: float(value) for key, value in result.items() if _is_number(value)}
    return _put_together(name, main, values, figures, reasons)


def _used_columns(module: Any, name: str, columns: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """What the script takes, under its own names."""
    features = module.features[0] if isinstance(module.features, list) else module.features
    unknown = [key for key in features if key not in _COLUMNS]
    if unknown:
        raise InvalidInputError(
            f"evaluate:{name} takes {', '.join(unknown)}; only metrics of predictions, references and sources can be "
            "used here."
        )
    missing = [_COLUMNS[key] for key in features if _COLUMNS[key] not in columns]
    if missing:
        raise InvalidInputError(f"evaluate:{name} needs the column {' and '.join(map(repr, missing))}.")
    return {key: columns[_COLUMNS[key]] for key in features}


def _missing(cells: Sequence[object], keys: Iterable[str]) -> str | None:
    for cell, key in zip(cells, keys, strict=True):
        if is_missing(cell):
            return f"the {_COLUMNS[key].removesuffix('s')} is missing"
    return None


def _compute(module: Any, columns: Mapping[str, list[Any]], compute: Mapping[str, Any]) -> dict[str, Any]:
    given = dict(columns)
    if "references" in given:
        given["references"] = _as_declared(module, given["references"])
    result = module.compute(**given, **compute)
    if not isinstance(result, Mapping):
        raise TypeError(f"compute gave {type(result).__name__}")
    return {str(key): value for key, value in result.items()}


def _as_declared(module: Any, references: list[Any]) -> list[Any]:
    """Each target as a list where the script asks for lists, or where one row has several."""
    options = module.features if isinstance(module.features, list) else [module.features]
    takes_lists_only = all(_is_list_type(option["references"]) for option in options)
    if not takes_lists_only and not any(is_list(cell) for cell in references):
        return references
    return [list(cell) if is_list(cell) else [cell] for cell in references]


def _is_list_type(feature: Any) -> bool:
    return isinstance(feature, list) or type(feature).__name__ in ("Sequence", "List", "LargeList")


def _row_keys(
    module: Any, columns: Mapping[str, list[Any]], compute: Mapping[str, Any], result: Mapping[str, Any]
) -> list[str]:
    """The keys with one value a row.

    A list may have as many values as there are rows by chance, as BLEU's four precisions: so the first row is computed
    once more, alone or twice, and the list must change its length with it.
    """
    count = len(columns["predictions"])
    keys = [key for key, value in result.items() if is_list(value) and _is_row_list(value, count)]
    if not keys:
        return []
    other = 2 if count == 1 else 1
    again = _compute(module, {key: [column[0]] * other for key, column in columns.items()}, compute)
    return [key for key in keys if is_list(again.get(key)) and _is_row_list(again[key], other)]


def _is_row_list(value: Sequence[object], count: int) -> bool:
    return len(value) == count and all(_is_number(item) for item in value)


def _spread(values: Sequence[Any], rows: Sequence[int], count: int) -> list[float]:
    spread = [math.nan] * count
    for index, value in zip(rows, values, strict=True):
        spread[index] = float(value)
    return spread


def _put_together(
    name: str,
    main: str | None,
    values: Mapping[str, list[float]],
    figures: Mapping[str, float],
    reasons: Sequence[str | None],
) -> RowScores:
    """The main figure under the metric's name, for rows its mean."""
    known = [*values, *figures]
    if not known:
        raise InvalidInputError(f"evaluate:{name} gave no number.")
    chosen = main or (name if name in known else known[0])
    if chosen not in known:
        raise InvalidInputError(f"evaluate:{name}: main must be one of {', '.join(known)}, got {chosen!r}.")
    if not values:
        aggregates = {**figures, name: figures[chosen]}
        return _one_figure(aggregates, reasons)
    shown = chosen if chosen in values else next(iter(values))
    others = {key: column for key, column in values.items() if key != shown}
    result = row_scores(values[shown], reasons, columns=others)
    headline = figures[chosen] if chosen in figures else result.aggregate_results.get("mean", math.nan)
    result.aggregate_results = {**result.aggregate_results, **figures, name: headline}
    return result


def _one_figure(aggregates: Mapping[str, float], reasons: Sequence[str | None]) -> RowScores:
    """For scripts that score no rows: `count` is of the rows that the figure is made of."""
    return RowScores(
        scores=[math.nan] * len(reasons),
        justifications=[reason or _ONE_FIGURE for reason in reasons],
        aggregate_results={
            **{key: value for key, value in aggregates.items() if not math.isnan(value)},
            "count": float(sum(reason is None for reason in reasons)),
        },
    )


def _is_number(value: object) -> bool:
    return isinstance(value, Real | np.number) and not isinstance(value, bool | np.bool_)


def _json(compute: Mapping[str, Any]) -> dict[str, Any]:
    plain = (str, int, float, bool, type(None))
    return {key: value if isinstance(value, plain) else repr(value) for key, value in compute.items()}
