"""Figures of a run with all rows in flight: latency, throughput, tokens, errors, memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from mlflow_llm_plugins.evaluation.predictions.prediction import Prediction


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
    * `prompt_tokens/mean`, `prompt_tokens/total`, `completion_tokens/mean`, `completion_tokens/total`
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
    figures = {"rows": float(len(predictions))}
    if predictions:
        figures["error_rate"] = (len(predictions) - len(answered)) / len(predictions)
    return {**figures, **_times(answered), **_tokens(answered), **_throughput(answered, wall_s), **_memory(memory)}


def _times(answered: Sequence[Prediction]) -> dict[str, float]:
    gaps = [gap for prediction in answered for gap in prediction.token_gaps]
    return {
        **_distribution("loaded_latency", [prediction.latency for prediction in answered]),
        **_distribution("loaded_time_to_first_token", [prediction.time_to_first_token for prediction in answered]),
        **_distribution("loaded_time_per_output_token", [prediction.time_per_output_token for prediction in answered]),
        **_distribution("loaded_inter_token_latency", gaps),
    }


def _distribution(name: str, seconds: Sequence[float | None]) -> dict[str, float]:
    known = [value for value in seconds if value is not None]
    if not known:
        return {}
    percentiles = zip(("p50", "p90", "p99"), np.percentile(known, (50, 90, 99)), strict=True)
    figures = {"mean": np.mean(known), **dict(percentiles), "count": len(known)}
    return {f"{name}/{figure}": float(value) for figure, value in figures.items()}


def _tokens(answered: Sequence[Prediction]) -> dict[str, float]:
    return {
        **_counts("prompt_tokens", [prediction.prompt_tokens for prediction in answered]),
        **_counts("completion_tokens", [prediction.completion_tokens for prediction in answered]),
    }


def _counts(name: str, counts: Sequence[int | None]) -> dict[str, float]:
    known = [count for count in counts if count is not None]
    figures = {f"{name}/mean": float(np.mean(known))} if known else {}
    if known and len(known) == len(counts):
        figures[f"{name}/total"] = float(sum(known))
    return figures


def _throughput(answered: Sequence[Prediction], wall_s: float | None) -> dict[str, float]:
    if not wall_s:
        return {}
    totals = _tokens(answered)
    prompts, answers = totals.get("prompt_tokens/total"), totals.get("completion_tokens/total")
    figures = {"throughput/requests_per_second": len(answered) / wall_s}
    if answers is not None:
        figures["throughput/output_tokens_per_second"] = answers / wall_s
    if answers is not None and prompts is not None:
        figures["throughput/total_tokens_per_second"] = (prompts + answers) / wall_s
    return figures


def _memory(memory: Memory | None) -> dict[str, float]:
    if memory is None:
        return {}
    known = {"rss_bytes": memory.rss_bytes, "gpu_bytes": memory.gpu_bytes}
    return {f"peak_memory/{name}": float(value) for name, value in known.items() if value is not None}
