"""What the evaluator measures itself, as columns that metrics find by the names of their parameters."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlflow_llm_plugins.evaluation.predictions import Prediction

_logger = logging.getLogger(__name__)


def _tokens_per_second(prediction: Prediction) -> float | None:
    if not prediction.latency or prediction.completion_tokens is None:
        return None
    return prediction.completion_tokens / prediction.latency


# Of requests that ran alone; the parameters of the metrics in `metrics.timing`.
UNLOADED: dict[str, Callable[[Prediction], Any]] = {
    "latencies": lambda prediction: prediction.latency,
    "times_to_first_token": lambda prediction: prediction.time_to_first_token,
    "token_gaps": lambda prediction: prediction.token_gaps or None,
    "times_per_output_token": lambda prediction: prediction.time_per_output_token,
    "output_tokens_per_second": _tokens_per_second,
}


def unloaded_columns(sample: Sequence[Prediction | None]) -> dict[str, list[Any]]:
    """A column for each of `UNLOADED`, None in rows that were not sampled, failed, or cannot be timed like this."""
    return {
        name: [None if each is None or each.error is not None else value(each) for each in sample]
        for name, value in UNLOADED.items()
    }


def say_what_is_not_timed(columns: Mapping[str, Sequence[Any]], wanted: Sequence[str]) -> None:
    """Warn of columns that somebody wants and that hold nothing."""
    empty = [name for name in wanted if all(cell is None for cell in columns[name])]
    if empty:
        _logger.warning(
            "%s could not be measured: there is no model to ask, it shows no single tokens or counts none, or no "
            "sampled row was answered.",
            ", ".join(empty),
        )
