"""One row a variant: quality, latency, throughput, memory and size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from mlflow_llm_plugins.evaluation.comparison.measures import Measure
from mlflow_llm_plugins.evaluation.comparison.trial import Trial

# Figures of the evaluator and of the model, in the order of the table; what no variant has is left out.
FIGURES = (
    *("loaded_latency/mean", "loaded_latency/p90", "loaded_time_to_first_token/mean"),
    *("loaded_time_per_output_token/mean", "throughput/requests_per_second", "throughput/output_tokens_per_second"),
    *("prompt_tokens/mean", "completion_tokens/mean", "peak_memory/rss_bytes", "peak_memory/gpu_bytes"),
    *("memory_growth/rss_bytes", "model/size_bytes", "model/weight_bytes"),
)

_DESCRIBED = ("model", "predictions", "prompt_template", "params", "model_config")


def summary_table(trials: Sequence[Trial], baseline: str, measures: Sequence[Measure]) -> pd.DataFrame:
    """Put the variants' main figures together; None where a variant has none."""
    rows = [
        {
            "variant": trial.name,
            "is_baseline": trial.name == baseline,
            "run_id": trial.run_id,
            **{name: trial.variant.described().get(name) for name in _DESCRIBED},
            "error": trial.error,
            "rows": trial.figures.get("rows"),
            "error_rate": trial.figures.get("error_rate"),
            **{
                measure.name: main_figure(trial, measure)
                for measure in measures
                if measure.main or not measure.is_cost
            },
            **{name: trial.figures.get(name) for name in FIGURES},
        }
        for trial in trials
    ]
    table = pd.DataFrame(rows, dtype=object)
    empty = [column for column in table if column != "error" and table[column].isna().all()]
    return table.drop(columns=empty)


def main_figure(trial: Trial, measure: Measure) -> Any:
    """The figure that stands for a metric; None where the variant has none."""
    return next((trial.figures[key] for key in measure.figure_keys if key in trial.figures), None)
