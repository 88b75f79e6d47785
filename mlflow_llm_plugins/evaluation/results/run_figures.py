"""Figures of a run with all rows in flight: latency, throughput, tokens, errors, memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from mlflow_llm_plugins.evaluation.predictions.prediction import Prediction

_ROWS = "rows"
_ERROR_RATE = "error_rate"
_THROUGHPUT = "throughput"
_PEAK_MEMORY = "peak_memory"

# Seconds of an answer, each with a distribution over all answers.
_TIMES: Mapping[str, Callable[[Prediction], Sequence[float | None]]] = {
    "loaded_latency": lambda prediction: [prediction.latency],
    "loaded_time_to_first_token": lambda prediction: [prediction.time_to_first_token],
    "loaded_time_per_output_token": lambda prediction: [prediction.time_per_output_token],
    "loaded_inter_token_latency": lambda prediction: prediction.token_gaps,
}
_TOKENS: Mapping[str, Callable[[Prediction], int | None]] = {
    "prompt_tokens": lambda prediction: prediction.prompt_tokens,
    "completion_tokens": lambda prediction: prediction.completion_tokens,
}

# What there are figures of: each key is one of these, or one with a slash and more.
FIGURES = frozenset({_ROWS, _ERROR_RATE, _THROUGHPUT, _PEAK_MEMORY, *_TIMES, *_TOKENS})


class Memory(Protocol):
    """The most memory that was in use at once; None where that is not known."""

    @property
    def rss_bytes(self) -> int | None:
        """Resident memory of the process."""

    @property
    def gpu_bytes(self) -> int | None:
        """Memory of the process on all GPUs."""


def loaded_figures(
    predictions: Sequence[Prediction], wall_s: float | None = None, memory: Memory | None = None
) -> dict[str, float]:
    """Sum up what was measured while the predictions were made.

    All times are seconds. `*` stands for `mean`, `p50`, `p90`, `p99` and `count`. Rows with an error count in `rows`
    and `error_rate` only.

    * `rows`, `error_rate` (the share of rows without an answer)
    * `loaded_latency/*`: until the whole answer was there
    * `loaded_time_to_first_token/*`: mostly waiting in the queue, as all rows are sent at once
    * `loaded_time_per_output_token/*`: one mean an answer, of its tokens after the first
    * `loaded_inter_token_latency/*`: all gaps between tokens, pooled over the answers
    * `mean`, `total` and `count` (of answers whose tokens are known) of `prompt_tokens` and `completion_tokens`
    * `throughput/requests_per_second` (answered ones), `throughput/output_tokens_per_second`,
      `throughput/total_tokens_per_second` (of prompts and answers)
    * `peak_memory/rss_bytes`, `peak_memory/gpu_bytes`

    What is not known is left out; totals and tokens a second are known if every answer has its count.

    Args:
        predictions: One a row.
        wall_s: From the first request to the last answer; None where no model was asked.
        memory: At its peak.
    """
    answered = [prediction for prediction in predictions if prediction.error is None]
    figures = {_ROWS: float(len(predictions))}
    if predictions:
        figures[_ERROR_RATE] = (len(predictions) - len(answered)) / len(predictions)
    return {**figures, **_times(answered), **_tokens(answered), **_throughput(answered, wall_s), **_memory(memory)}


def _times(answered: Sequence[Prediction]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for name, times in _TIMES.items():
        figures |= _distribution(name, [seconds for prediction in answered for seconds in times(prediction)])
    return figures


def _distribution(name: str, seconds: Sequence[float | None]) -> dict[str, float]:
    known = [value for value in seconds if value is not None]
    if not known:
        return {}
    percentiles = zip(("p50", "p90", "p99"), np.percentile(known, (50, 90, 99)), strict=True)
    figures = {"mean": np.mean(known), **dict(percentiles), "count": len(known)}
    return {f"{name}/{figure}": float(value) for figure, value in figures.items()}


def _tokens(answered: Sequence[Prediction]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for name, tokens in _TOKENS.items():
        figures |= _counts(name, [tokens(prediction) for prediction in answered])
    return figures


def _counts(name: str, counts: Sequence[int | None]) -> dict[str, float]:
    known = [count for count in counts if count is not None]
    if not known:
        return {}
    figures = {f"{name}/mean": float(np.mean(known)), f"{name}/count": float(len(known))}
    if len(known) == len(counts):
        figures[f"{name}/total"] = float(sum(known))
    return figures


def _throughput(answered: Sequence[Prediction], wall_s: float | None) -> dict[str, float]:
    if not wall_s:
        return {}
    totals = _tokens(answered)
    prompts, answers = totals.get("prompt_tokens/total"), totals.get("completion_tokens/total")
    figures = {f"{_THROUGHPUT}/requests_per_second": len(answered) / wall_s}
    if answers is not None:
        figures[f"{_THROUGHPUT}/output_tokens_per_second"] = answers / wall_s
    if answers is not None and prompts is not None:
        figures[f"{_THROUGHPUT}/total_tokens_per_second"] = (prompts + answers) / wall_s
    return figures


def _memory(memory: Memory | None) -> dict[str, float]:
    if memory is None:
        return {}
    known = {"rss_bytes": memory.rss_bytes, "gpu_bytes": memory.gpu_bytes}
    return {f"{_PEAK_MEMORY}/{name}": float(value) for name, value in known.items() if value is not None}
