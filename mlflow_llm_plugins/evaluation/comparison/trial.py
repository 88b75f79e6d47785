"""The evaluation of one variant in a run of its own."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from mlflow_llm_plugins.evaluation.comparison.data import ComparedData
from mlflow_llm_plugins.evaluation.comparison.opened_model import opened
from mlflow_llm_plugins.evaluation.comparison.variant import Variant
from mlflow_llm_plugins.evaluation.invitation import NAME
from mlflow_llm_plugins.evaluation.settings import EvaluatorSettings
from mlflow_llm_plugins.metrics.naming import metrics_of

_logger = logging.getLogger(__name__)

TIMING = ("latency", "time_to_first_token", "time_per_output_token")  # part of each comparison
_TABLE = "eval_results_table"
_LONGEST_REASON = 500


@dataclass(frozen=True, slots=True)
class Setup:
    """What is the same for all variants."""

    data: ComparedData
    model_type: str | None
    settings: EvaluatorSettings
    extra_metrics: Sequence[Any]
    adds_timing: bool  # the user named no metrics, so latencies belong to them

    def config(self, variant: Variant, col_mapping: Mapping[str, Any]) -> dict[str, Any]:
        """The variant's `evaluator_config`; its own parameters and mapping go over those of all."""
        given = {name: getattr(self.settings, name) for name in self.settings.model_fields_set}
        params = {**self.settings.params, **variant.params}
        return {**given, "params": params, "col_mapping": {**self.settings.col_mapping, **col_mapping}}

    def metrics_beside(self, variant: Variant) -> list[Any]:
        """`extra_metrics`, and the latencies that can be measured of this variant."""
        possible = () if variant.predictions is not None else TIMING[:1] if variant.is_function else TIMING
        taken = {metric.name for metric in self.extra_metrics}
        timing = [name for name in possible if name not in taken] if self.adds_timing else []
        return [*self.extra_metrics, *metrics_of(timing)]

    @property
    def asked_column(self) -> str | None:
        """The column that models are asked with, where the user named it."""
        mapped = self.settings.col_mapping.get("inputs")
        return mapped if isinstance(mapped, str) else None


@dataclass(frozen=True, slots=True)
class Trial:
    """What came out; without rows, the error says why."""

    name: str
    variant: Variant
    run_id: str
    figures: Mapping[str, float] = field(default_factory=dict)  # without metric_prefix
    rows: pd.DataFrame | None = None  # the results table
    error: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)  # where the table has `predictions` and `targets`


def run_trial(name: str, variant: Variant, setup: Setup) -> Trial:
    """Evaluate in a new run below the active one; whatever fails, fails only this variant."""
    import mlflow

    run = mlflow.start_run(run_name=name, nested=True)
    try:
        with run:
            mlflow.log_params({"variant": name, **variant.described()})
            figures, rows = _evaluated(name, variant, setup)
        return Trial(name, variant, run.info.run_id, figures, rows, columns=_columns(variant, setup))
    except Exception as error:  # of loading, of a model, of MLflow
        reason = _reason(error)
        _logger.warning("Variant %r has no result: %s", name, reason, exc_info=_logger.isEnabledFor(logging.DEBUG))
        return Trial(name, variant, run.info.run_id, error=reason)


def _evaluated(name: str, variant: Variant, setup: Setup) -> tuple[dict[str, float], pd.DataFrame]:
    import mlflow

    arguments = setup.data.arguments(name, variant, setup.asked_column)
    config = setup.config(variant, arguments.pop("col_mapping"))
    with opened(variant) as model:
        result = mlflow.models.evaluate(
            model=model.model,
            model_type=setup.model_type,
            evaluators=NAME,
            evaluator_config=config,
            extra_metrics=setup.metrics_beside(variant),
            **arguments,
        )
        prefix = setup.settings.metric_prefix
        figures = {key.removeprefix(prefix): value for key, value in result.metrics.items()}
        sizes = model.figures(figures.get("peak_memory/rss_bytes"))
    mlflow.log_metrics({prefix + key: value for key, value in sizes.items()})
    content = result.artifacts[_TABLE].content
    return {**figures, **sizes}, pd.DataFrame(content["data"], columns=content["columns"], dtype=object)


def _columns(variant: Variant, setup: Setup) -> dict[str, str]:
    own = {"predictions": variant.predictions or "outputs", "targets": setup.data.targets_name or "target"}
    mapped = {name: column for name, column in setup.settings.col_mapping.items() if isinstance(column, str)}
    return {name: own.get(mapped.get(name, name), mapped.get(name, name)) for name in own}


def _reason(error: Exception) -> str:
    from mlflow.exceptions import MlflowException

    from mlflow_llm_plugins.errors import LLMError

    text = str(error) if isinstance(error, LLMError | MlflowException) else f"{type(error).__name__}: {error}"
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}…"
