"""One evaluation from what MLflow hands over to what it leaves in the run."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from mlflow.models.evaluation.base import EvaluationMetric, EvaluationResult

from mlflow_llm_plugins.errors import GenerationError
from mlflow_llm_plugins.evaluation.chosen import chosen_metrics, reads
from mlflow_llm_plugins.evaluation.columns import Columns
from mlflow_llm_plugins.evaluation.computing import compute_all, figures, prepare
from mlflow_llm_plugins.evaluation.conversations import as_texts, quotes
from mlflow_llm_plugins.evaluation.invitation import others_take_part
from mlflow_llm_plugins.evaluation.measured import UNLOADED, say_what_is_not_timed, unloaded_columns
from mlflow_llm_plugins.evaluation.predictions import PeakMemory, Prediction, PredictOptions, Source, source_of
from mlflow_llm_plugins.evaluation.predictions.features import likely_inputs, several_columns
from mlflow_llm_plugins.evaluation.results.file_store import storable
from mlflow_llm_plugins.evaluation.results.record import log_record
from mlflow_llm_plugins.evaluation.results.run import Outcome, log_figures, log_outcome
from mlflow_llm_plugins.evaluation.results.run_figures import loaded_figures
from mlflow_llm_plugins.evaluation.settings import EvaluatorSettings, parse_settings
from mlflow_llm_plugins.metrics.engines import find_engine

_logger = logging.getLogger(__name__)

_SEED = 0  # of the sample for latency: the same rows for each model that is evaluated on the same data


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Checked, so that what can be wrong with it is said before a model is asked."""

    settings: EvaluatorSettings
    metrics: Sequence[EvaluationMetric]
    source: Source
    columns: Columns  # without predictions
    dataset: Any  # MLflow's EvaluationDataset
    asks_model: bool

    @classmethod
    def of(
        cls,
        *,
        model: Any,
        model_type: str | None,
        dataset: Any,
        evaluator_config: Mapping[str, Any] | None,
        extra_metrics: Sequence[Any],
        custom_artifacts: Any,
        predictions_column: str | None,
    ) -> Evaluation:
        """Read what `ModelEvaluator.evaluate` gets.

        Raises:
            InvalidInputError: Settings, metrics or data that do not fit; says what does.
        """
        settings = parse_settings(evaluator_config)
        if custom_artifacts:
            _logger.warning("custom_artifacts are left to MLflow's default evaluator.")
        if model is None and settings.params:
            _logger.warning("params are not used: the predictions are made already.")
        _check_columns(dataset)
        frame = _features(dataset)
        source = source_of(model, frame, _options(settings, predictions_column), predictions=dataset.predictions_data)
        engine = find_engine(model)
        columns = _columns(dataset, frame, settings, predictions_column, engine)
        metrics = chosen_metrics(model_type, settings.metrics, extra_metrics, columns, engine is not None)
        prepare(metrics, columns, more_columns=source.gives_columns)
        return cls(settings, metrics, source, columns, dataset, model is not None)

    def run(self, run_id: str, model_id: str | None) -> EvaluationResult:
        """Ask the model, compute and log.

        Raises:
            GenerationError: More rows than `max_error_rate` have no answer; everything was logged before.
        """
        unloaded = self._unloaded()
        predictions, loaded = self._loaded()
        computed = compute_all(self.metrics, self._with(predictions, unloaded))
        outcome = Outcome(
            features=self.columns.inputs,
            targets=self.columns.targets,
            targets_name=self.columns.targets_name,
            predictions=predictions,
            predictions_name=self.columns.predictions_name,
            values={each.key: each.value for each in computed},
            unloaded=[None if each is None else each.latency for each in unloaded],
            figures={**loaded, **figures(computed)},
        )
        result = log_outcome(outcome, self.settings, run_id, others_take_part())
        result.artifacts.update(log_record(computed, self.source.describe(), self.settings, run_id))
        stored = storable(result.metrics, run_id, model_id)
        failure = self._failure(predictions)
        if model_id is not None and failure is None:  # MLflow logs what it is given by all evaluators, to both, once
            return EvaluationResult(metrics=stored, artifacts=result.artifacts, run_id=run_id)
        log_figures(stored, self.dataset, run_id, model_id)
        if failure is not None:
            raise failure
        return result

    def _unloaded(self) -> list[Prediction | None]:
        """Before the model is loaded with all rows."""
        wanted = [name for name in UNLOADED if any(reads(metric, [name]) for metric in self.metrics)]
        if not wanted:
            return [None] * len(self.columns.inputs)
        size, progress = self.settings.latency_sample_size, self.settings.progress
        sample = self.source.predict_unloaded(size, _SEED, progress=progress)
        say_what_is_not_timed(unloaded_columns(sample), wanted)
        return sample

    def _loaded(self) -> tuple[list[Prediction], dict[str, float]]:
        with PeakMemory() if self.source.runs_here else nullcontext() as memory:
            started = time.perf_counter()
            predictions = self.source.predict_all(progress=self.settings.progress)
            wall_s = time.perf_counter() - started
        return predictions, loaded_figures(predictions, wall_s if self.asks_model else None, memory)

    def _with(self, predictions: Sequence[Prediction], unloaded: Sequence[Prediction | None]) -> Columns:
        names = dict.fromkeys(name for prediction in predictions for name in prediction.others)
        return replace(
            self.columns,
            predictions=[prediction.output for prediction in predictions],
            outputs={name: [prediction.others.get(name) for prediction in predictions] for name in names},
            measured={
                **self.columns.measured,
                **unloaded_columns(unloaded),
                "prompt_tokens": [prediction.prompt_tokens for prediction in predictions],
                "completion_tokens": [prediction.completion_tokens for prediction in predictions],
            },
        )

    def _failure(self, predictions: Sequence[Prediction]) -> GenerationError | None:
        """The error where too few rows have an answer."""
        failed = [i for i, prediction in enumerate(predictions) if prediction.error is not None]
        limit = self.settings.max_error_rate
        if len(failed) / len(predictions) <= limit:
            return None
        reason = str(predictions[failed[0]].error)
        is_quoting = quotes(reason, self.columns.inputs.iloc[failed[0]])
        first = "" if is_quoting else f"The first one: {reason.removesuffix('.')}. "
        return GenerationError(
            f"{len(failed)} of {len(predictions)} rows have no answer, more than max_error_rate={limit:g} allows. "
            f"{first}All reasons are in the run's table, column error."
        )


def _check_columns(dataset: Any) -> None:
    """Refuse targets or predictions whose name MLflow found several columns by."""
    named = {dataset.targets_name: dataset.labels_data, dataset.predictions_name: dataset.predictions_data}
    for name, column in named.items():
        if name is not None and getattr(column, "ndim", 1) > 1:
            raise several_columns(name)


def _features(dataset: Any) -> pd.DataFrame:
    """The data without targets and predictions, as the table that MLflow's default evaluator makes of them."""
    frame = pd.DataFrame(dataset.features_data).reset_index(drop=True)
    names = list(dataset.feature_names or frame.columns)
    return frame.rename(columns=dict(zip(frame.columns, names, strict=False)))


def _options(settings: EvaluatorSettings, predictions_column: str | None) -> PredictOptions:
    mapped = settings.col_mapping.get("inputs")
    return PredictOptions(
        input_column=mapped if isinstance(mapped, str) else None,
        predictions_column=predictions_column,
        params=settings.params,
        max_in_flight=settings.max_in_flight,
        max_workers=settings.max_workers,
    )


def _columns(
    dataset: Any, frame: pd.DataFrame, settings: EvaluatorSettings, predictions_column: str | None, engine: Any
) -> Columns:
    return Columns(
        inputs=frame,
        targets=dataset.labels_data,
        targets_name=dataset.targets_name,
        predictions_name=predictions_column or dataset.predictions_name,
        measured={} if engine is None else {"engine": engine},
        mapping=_mapping(frame, settings.col_mapping, dataset.predictions_data is None),
    )


def _mapping(frame: pd.DataFrame, given: Mapping[str, Any], is_asked: bool) -> dict[str, Any]:
    """With `inputs` for metrics: what the model is asked, conversations as text."""
    name = given.get("inputs", "inputs")
    if not isinstance(name, str):
        return dict(given)
    if name not in frame.columns:
        likely = likely_inputs(list(frame.columns), is_asked=is_asked)
        if "inputs" in given or len(likely) != 1:
            return dict(given)
        name = likely[0]
    return {**given, "inputs": as_texts(frame[name])}
