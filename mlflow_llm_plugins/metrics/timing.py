"""How fast answers came, from what the evaluator `llm` measured with one request at a time.

Definitions as in vLLM's `bench serve`, units as in MLflow and OpenTelemetry: seconds. None in a column: the row is not
in the sample. Beside other evaluators, which measure none of this, the metrics give no figure and say so; MLflow's
default evaluator knows `latency` by its name, and measures it in its own way.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from numbers import Real
from typing import Any

import numpy as np

from mlflow_llm_plugins.metrics.metric import LLMMetric, NotScoredError, RowScores, is_missing, row_scores

_logger = logging.getLogger(__name__)


def latency() -> LLMMetric:
    """Seconds from sending a request until its whole answer is there."""

    def eval_fn(latencies: Iterable[Any] | None = None) -> RowScores | None:
        return _scores("latency", latencies)

    return _metric("latency", eval_fn, latency.__doc__)


def time_to_first_token() -> LLMMetric:
    """Seconds from sending a request until the first token of its answer is there."""

    def eval_fn(times_to_first_token: Iterable[Any] | None = None) -> RowScores | None:
        return _scores("time_to_first_token", times_to_first_token)

    return _metric("time_to_first_token", eval_fn, time_to_first_token.__doc__)


def inter_token_latency() -> LLMMetric:
    """Seconds between neighbouring tokens, those of all answers together, so that long answers weigh more.

    Each row of the column is the sequence of an answer's gaps; its score is their mean, and all other figures but
    `count` (of rows) are over the gaps of all rows, whose number is `gaps`.
    """

    def eval_fn(token_gaps: Iterable[Any] | None = None) -> RowScores | None:
        cells = _measured("inter_token_latency", token_gaps)
        return None if cells is None else _pooled(cells)

    return _metric("inter_token_latency", eval_fn, inter_token_latency.__doc__)


def time_per_output_token() -> LLMMetric:
    """Seconds that an answer's tokens after the first took, divided by their number; none for a single token."""

    def eval_fn(times_per_output_token: Iterable[Any] | None = None) -> RowScores | None:
        return _scores("time_per_output_token", times_per_output_token)

    return _metric("time_per_output_token", eval_fn, time_per_output_token.__doc__)


def tokens_per_second() -> LLMMetric:
    """Tokens of an answer divided by the seconds from sending its request until it is whole."""

    def eval_fn(output_tokens_per_second: Iterable[Any] | None = None) -> RowScores | None:
        return _scores("tokens_per_second", output_tokens_per_second)

    return _metric("tokens_per_second", eval_fn, tokens_per_second.__doc__, greater_is_better=True)


def _metric(name: str, eval_fn: Callable[..., Any], details: str | None, greater_is_better: bool = False) -> LLMMetric:
    return LLMMetric(eval_fn, name, greater_is_better=greater_is_better, metric_details=details)


def _scores(name: str, column: Iterable[Any] | None) -> RowScores | None:
    cells = _measured(name, column)
    if cells is None:
        return None
    rows = [_tried(_number, cell) for cell in cells]
    values = [value for value, _ in rows]
    return row_scores(values, [reason for _, reason in rows], aggregates=_figures(values))


def _pooled(column: Sequence[Any]) -> RowScores:
    cells = [list(cell) if isinstance(cell, Iterator) else cell for cell in column]  # they are read twice
    rows = [_tried(_mean_gap, cell) for cell in cells]
    means = [mean for mean, _ in rows]
    gaps = [gap for cell, mean in zip(cells, means, strict=True) if math.isfinite(mean) for gap in cell]
    return row_scores(means, [reason for _, reason in rows], aggregates={**_figures(gaps), "gaps": len(gaps)})


def _measured(name: str, column: Iterable[Any] | None) -> list[Any] | None:
    """The column's cells; or None, which MLflow's default evaluator takes as no figure. An error would end it."""
    if column is not None:
        return list(column)
    _logger.warning("%s is left out: it was not measured. Evaluate with evaluators='llm', which does.", name)
    return None


def _tried(value_of: Callable[[Any], float], cell: Any) -> tuple[float, str | None]:
    try:
        return (math.nan if is_missing(cell) else value_of(cell)), None
    except NotScoredError as reason:
        return math.nan, str(reason)


def _number(cell: Any) -> float:
    if isinstance(cell, bool) or not isinstance(cell, Real):
        raise NotScoredError(f"what was measured is of type {type(cell).__name__}, not a number")
    try:
        value = float(cell)
    except OverflowError:  # an integer beyond floats
        value = math.inf
    if not math.isfinite(value) or value < 0:
        raise NotScoredError(f"what was measured must be finite and at least 0, got {value}")
    return value


def _mean_gap(cell: Any) -> float:
    if isinstance(cell, str | bytes) or not isinstance(cell, Iterable):
        raise NotScoredError(f"what was measured is of type {type(cell).__name__}, not a sequence of times")
    gaps = [_number(gap) for gap in cell]
    return math.fsum(gaps) / len(gaps) if gaps else math.nan


def _figures(values: Sequence[float]) -> dict[str, float]:
    valid = [float(value) for value in values if math.isfinite(value)]
    if not valid:
        return {}
    p50, p90, p99 = np.percentile(valid, [50, 90, 99])
    return {"mean": float(np.mean(valid)), "variance": float(np.var(valid)), "p50": p50, "p90": p90, "p99": p99}
