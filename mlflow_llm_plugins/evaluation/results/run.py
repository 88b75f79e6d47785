"""What an evaluation leaves in its run, and what it returns."""

from __future__ import annotations

import logging
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

_logger = logging.getLogger(__name__)

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


def storable(figures: Mapping[str, float], run_id: str) -> dict[str, float]:
    """The figures that the run can hold: all, unless its tracking store is a folder, where each key is a file.

    A file cannot be the folder of others, so there no key can be the beginning of another; the longer one stays, as
    what is behind a key tells more than the key alone. A warning tells what is left out.

    Args:
        figures: By their keys.
        run_id: The run, which may have figures already.
    """
    from mlflow import MlflowClient, get_tracking_uri
    from mlflow.utils.uri import is_local_uri

    if not is_local_uri(get_tracking_uri()):
        return dict(figures)
    logged = MlflowClient().get_run(run_id).data.metrics
    folders = {folder for key in (*logged, *figures) for folder in _folders(key)}
    left_out = [key for key in figures if key in folders or not logged.keys().isdisjoint(_folders(key))]
    if left_out:
        _logger.warning(
            "Not logged: %s. A file store holds no key beside others that begin with it; a database holds all: "
            "mlflow.set_tracking_uri('sqlite:///mlflow.db').",
            ", ".join(f"{key}={figures[key]:g}" for key in left_out),
        )
    return {key: value for key, value in figures.items() if key not in left_out}


def _folders(key: str) -> list[str]:
    """`a` and `a/b` of `a/b/c`."""
    parts = key.split("/")
    return ["/".join(parts[:length]) for length in range(1, len(parts))]


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
