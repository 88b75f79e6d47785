"""Any metric of Hugging Face's library `evaluate`, by its name on the Hub or as a local script."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

from mlflow_llm_plugins.errors import InvalidInputError, LLMError
from mlflow_llm_plugins.metrics.metric import LLMMetric, RowScores, row_scores
from mlflow_llm_plugins.metrics.reference.hub_columns import (
    as_declared,
    taken_columns,
    text_columns,
    unusable,
    used_columns,
)
from mlflow_llm_plugins.metrics.reference.hub_module import LazyModule, find_script
from mlflow_llm_plugins.metrics.reference.rows import is_list

_ONE_FIGURE = "one figure for all rows"
_NOT_FINITE = "the script gave no finite number"
_LESS_IS_BETTER = {"cer", "character", "mae", "mape", "mase", "mse", "perplexity", "smape", "ter", "wer"}
_MORE_IS_BETTER = {
    *("accuracy", "bertscore", "bleu", "bleurt", "chrf", "code_eval", "comet", "exact_match", "f1", "google_bleu"),
    *("mauve", "meteor", "precision", "recall", "roc_auc", "rouge", "sacrebleu", "sari", "squad", "squad_v2"),
}

Computation = Callable[[Mapping[str, "list[Any]"]], "dict[str, Any]"]  # columns by the script's names -> its result


def evaluate_metric(
    script: str,
    *,
    config_name: str | None = None,
    main: str | None = None,
    greater_is_better: bool | None = None,
    name: str | None = None,
    **compute: Any,
) -> LLMMetric:
    """A metric of `evaluate`; its script is loaded, and run, at the first evaluation.

    A list with one value a row becomes the rows' scores, and single figures become aggregates under their own names.
    Rows without a prediction or target are left out, and so are those that hold no text where the script asks for it.
    What is not finite is no score and no figure; booleans are 0 and 1.

    Args:
        script: "meteor", "owner/name" on the Hub, "./dir/met.py", or "./dir" which holds "dir.py". A bare name is
            never looked for in the working directory.
        config_name: As `evaluate.load` takes it.
        main: The key of the result that stands for the metric; default: the one named like it, else the first.
        greater_is_better: Which direction is better. Default: by the script's name where that is well known, as
            "wer"; else unknown, so that comparisons call no model better.
        name: Of the metric; default: the script's.
        **compute: As the script's `compute` takes them.

    Raises:
        InvalidInputError: There is no such script.
        MissingDependencyError: `evaluate` is not installed.
    """
    found = find_script(script)
    module = LazyModule(found, config_name)
    key = found.name if name is None else name

    def prepared(evaluated: Any) -> None:
        module.use(lambda loaded: taken_columns(loaded, found.name))

    def eval_fn(
        predictions: Iterable[Any], targets: Iterable[Any] | None = None, inputs: Iterable[Any] | None = None
    ) -> RowScores:
        given = {"predictions": predictions, "targets": targets, "inputs": inputs}
        columns = {column: list(cells) for column, cells in given.items() if cells is not None}
        return _evaluate(module, found.name, columns, compute, main, key)

    return LLMMetric(
        eval_fn,
        key,
        greater_is_better=_direction(found.name) if greater_is_better is None else greater_is_better,
        main=key,
        version=None,
        metric_details=f"{found.source} by Hugging Face's evaluate.",
        metric_metadata={"source": found.source, "config_name": config_name, "compute": _json(compute)},
        prepare=prepared,
    )


def _direction(name: str) -> bool | None:
    return True if name in _MORE_IS_BETTER else False if name in _LESS_IS_BETTER else None


def _evaluate(
    module: LazyModule,
    script: str,
    columns: Mapping[str, list[Any]],
    compute: Mapping[str, Any],
    main: str | None,
    key: str,
) -> RowScores:
    used, texts = module.use(lambda loaded: (used_columns(loaded, script, columns), text_columns(loaded)))
    reasons = [unusable(dict(zip(used, cells, strict=True)), texts) for cells in zip(*used.values(), strict=True)]
    rows = [index for index, reason in enumerate(reasons) if reason is None]
    if not rows:
        return row_scores([math.nan] * len(reasons), reasons)

    def computed(given: Mapping[str, list[Any]]) -> dict[str, Any]:
        result: dict[str, Any] = module.use(lambda loaded: _compute(loaded, given, compute))
        return result

    valid = {column: [cells[index] for index in rows] for column, cells in used.items()}
    result = computed(valid)
    values = {one: _spread(result[one], rows, len(reasons)) for one in _row_keys(computed, valid, result)}
    figures = {one: _finite(value) for one, value in result.items() if _is_number(value)}
    return _put_together(script, key, main, values, figures, reasons)


def _compute(module: Any, columns: Mapping[str, list[Any]], compute: Mapping[str, Any]) -> dict[str, Any]:
    given = dict(columns)
    if "references" in given:
        given["references"] = as_declared(module, given["references"])
    result = module.compute(**given, **compute)
    if not isinstance(result, Mapping):
        raise TypeError(f"compute gave {type(result).__name__}")
    return {str(key): _plain(value) for key, value in result.items()}


def _row_keys(computed: Computation, columns: Mapping[str, list[Any]], result: Mapping[str, Any]) -> list[str]:
    """The keys with one value a row.

    A list may have as many values as there are rows by chance, as BLEU's four precisions: so the first row is computed
    once more, alone or twice, and the list must change its length with it. A script that cannot do that, as some of
    correlation, is believed.
    """
    count = len(columns["predictions"])
    keys = [key for key, value in result.items() if is_list(value) and _is_row_list(value, count)]
    if not keys:
        return []
    other = 2 if count == 1 else 1
    try:
        again = computed({key: [column[0]] * other for key, column in columns.items()})
    except LLMError:
        return keys
    return [key for key in keys if is_list(again.get(key)) and _is_row_list(again[key], other)]


def _is_row_list(value: Sequence[object], count: int) -> bool:
    return len(value) == count and all(_is_number(item) for item in value)


def _spread(values: Sequence[Any], rows: Sequence[int], count: int) -> list[float]:
    spread = [math.nan] * count
    for index, value in zip(rows, values, strict=True):
        spread[index] = _finite(value)
    return spread


def _finite(value: Any) -> float:
    """The number as a float, NaN where it is not finite as one."""
    try:
        number = float(value)
    except OverflowError:  # an integer beyond floats
        return math.nan
    return number if math.isfinite(number) else math.nan


def _put_together(
    script: str,
    key: str,
    main: str | None,
    values: Mapping[str, list[float]],
    figures: Mapping[str, float],
    reasons: Sequence[str | None],
) -> RowScores:
    """The main figure under the metric's name, `key`; for rows it is their mean."""
    known = [*values, *figures]
    if not known:
        raise InvalidInputError(f"evaluate:{script} gave no number.")
    chosen = main or (script if script in known else known[0])
    if chosen not in known:
        raise InvalidInputError(f"evaluate:{script}: main must be one of {', '.join(known)}, got {chosen!r}.")
    if not values:
        return _one_figure({**figures, key: figures[chosen]}, reasons)
    shown = chosen if chosen in values else next(iter(values))
    others = {name: column for name, column in values.items() if name != shown}
    result = row_scores(values[shown], _with_unusable(values[shown], reasons), columns=others)
    headline = figures[chosen] if chosen in figures else result.aggregate_results.get("mean", math.nan)
    result.aggregate_results = _without_nan({**result.aggregate_results, **figures, key: headline})
    return result


def _with_unusable(scores: Sequence[float], reasons: Sequence[str | None]) -> list[str | None]:
    """The reasons, also of rows for which the script gave a score that is none."""
    pairs = zip(scores, reasons, strict=True)
    return [reason or (_NOT_FINITE if math.isnan(score) else None) for score, reason in pairs]


def _one_figure(aggregates: Mapping[str, float], reasons: Sequence[str | None]) -> RowScores:
    """For scripts that score no rows: `count` is of the rows that the figure is made of."""
    return RowScores(
        scores=[math.nan] * len(reasons),
        justifications=[reason or _ONE_FIGURE for reason in reasons],
        aggregate_results={**_without_nan(aggregates), "count": float(sum(reason is None for reason in reasons))},
    )


def _without_nan(figures: Mapping[str, float]) -> dict[str, float]:
    return {key: value for key, value in figures.items() if not math.isnan(value)}


def _plain(value: Any) -> Any:
    """Numbers of numpy and torch, and arrays of one number without a dimension, as Python's own."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


def _is_number(value: object) -> bool:
    return isinstance(value, Real | np.bool_)


def _json(compute: Mapping[str, Any]) -> dict[str, Any]:
    plain = (str, int, float, bool, type(None))
    return {key: value if isinstance(value, plain) else repr(value) for key, value in compute.items()}
