"""One row a variant: quality, latency, throughput, memory and size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from mlflow_llm_plugins.evaluation.comparison.figures import main_figure
from mlflow_llm_plugins.evaluation.comparison.measures import Measure
from mlflow_llm_plugins.evaluation.comparison.trial import Trial

# Figures of the evaluator and of the model, in the order of the table; what no variant has is left out.
FIGURES = (
    *("loaded_latency/mean", "loaded_latency/p90", "loaded_time_to_first_token/mean"),
    *("loaded_time_per_output_token/mean", "throughput/requests_per_second", "throughput/output_tokens_per_second"),
    *("prompt_tokens/mean", "completion_tokens/mean", "peak_memory/rss_bytes", "peak_memory/gpu_bytes"),
    *("memory_growth/rss_bytes", "model/loaded_weight_bytes", "model/weight_bytes", "model/size_bytes"),
)
# What a model's size is told by, the best first: an artifact may only refer to its weights, and files are not what a
# quantization at load time leaves in memory.
SIZES = ("model/loaded_weight_bytes", "model/weight_bytes", "model/size_bytes")

_DESCRIBED = ("model", "predictions", "prompt_template", "params", "model_config")


def summary_table(trials: Sequence[Trial], baseline: str, measures: Sequence[Measure]) -> pd.DataFrame:
    """Put the variants' main figures together, each over the rows that the variant has; None where there is none.

    Behind a metric that did not score all rows of some variant comes `<metric>/count`, the rows that it did score.
    """
    shown = [measure for measure in measures if measure.metric is not None]
    rows = [
        {
            "variant": trial.name,
            "is_baseline": trial.name == baseline,
            "run_id": trial.run_id,
            **{name: trial.variant.described().get(name) for name in _DESCRIBED},
            "error": trial.error,
            "rows": trial.figures.get("rows"),
            "error_rate": trial.figures.get("error_rate"),
            **{name: value for measure in shown for name, value in _cells(trial, measure, trials).items()},
            **{name: trial.figures.get(name) for name in FIGURES},
        }
        for trial in trials
    ]
    table = pd.DataFrame(rows, dtype=object)
    empty = [column for column in table if column != "error" and table[column].isna().all()]
    return table.drop(columns=empty)


def size_kind(figures: Sequence[Mapping[str, Any]]) -> str | None:
    """The best of `SIZES` that all of these variants have, of those that have any."""
    known = [each for each in figures if any(_is_size(each.get(name)) for name in SIZES)]
    return next((name for name in SIZES if known and all(_is_size(each.get(name)) for each in known)), None)


def _is_size(value: Any) -> bool:
    return value is not None and bool(value > 0)  # NaN is not


def _cells(trial: Trial, measure: Measure, trials: Sequence[Trial]) -> dict[str, Any]:
    count = f"{measure.key}/count"
    is_partial = any(each.figures.get(count, math.inf) < each.figures.get("rows", 0) for each in trials)
    counted = {f"{measure.name}/count": trial.figures.get(count)} if is_partial and measure.kind != "time" else {}
    return {measure.name: main_figure(trial, measure), **counted}
