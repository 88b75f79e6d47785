"""What an evaluation leaves in its run, and what it returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from mlflow.metrics.base import MetricValue
from mlflow.models.evaluation.base import EvaluationResult

from mlflow_llm_plugins.evaluation.predictions import Prediction
from mlflow_llm_plugins.evaluation.results.artifact_file import OWN_STEM, SHORT_FILE, log_results_table
from mlflow_llm_plugins.evaluation.results.plots import log_plots
from mlflow_llm_plugins.evaluation.results.table import results_table
from mlflow_llm_plugins.evaluation.settings import EvaluatorSettings

_TABLE = SHORT_FILE.partition(".")[0]  # its name in results, as the default evaluator has it


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that an evaluation found."""

    features: pd.DataFrame
    targets: Sequence[Any] | None
    targets_name: str | None
    predictions: Sequence[Prediction]
    predictions_name: str | None
    values: Mapping[str, MetricValue]  # by `name/version`
    unloaded: Sequence[float | None]  # seconds, of rows that were asked alone
    figures: Mapping[str, float]


def log_outcome(outcome: Outcome, settings: EvaluatorSettings, run_id: str, others: bool) -> EvaluationResult:
    """Log table and plots.

    Args:
        outcome: To log.
        settings: Whether plots are wanted, and the prefix.
        run_id: The run.
        others: Whether other evaluators take part.
    """
    prefix = settings.metric_prefix
    figures = {f"{prefix}{name}": value for name, value in outcome.figures.items()}
    table = results_table(
        outcome.features,
        outcome.targets,
        outcome.targets_name,
        outcome.predictions,
        outcome.predictions_name,
        outcome.values,
    )
    logged = log_results_table(table, run_id, others, prefix)
    # Beside another evaluator that key is its own: MLflow keeps one of two.
    artifacts = {OWN_STEM if others else _TABLE: logged.artifact}
    if settings.plots:
        artifacts |= log_plots(outcome.predictions, outcome.values, run_id, unloaded=outcome.unloaded, prefix=prefix)
    return EvaluationResult(metrics=figures, artifacts=artifacts, run_id=run_id)


def log_figures(figures: Mapping[str, float], dataset: Any, run_id: str, model_id: str | None) -> None:
    """Log the figures with the data that they are of.

    Args:
        figures: By their keys.
        dataset: MLflow's EvaluationDataset.
        run_id: The run.
        model_id: Of the logged model that they are of; None where there is none.
    """
    from mlflow import MlflowClient
    from mlflow.entities import Metric
    from mlflow.utils.time import get_current_time_millis

    now = get_current_time_millis()
    about = {"dataset_name": dataset.name, "dataset_digest": dataset.digest, "model_id": model_id}
    metrics = [Metric(key, value, now, 0, run_id=run_id, **about) for key, value in figures.items()]
    MlflowClient().log_batch(run_id, metrics=metrics)
