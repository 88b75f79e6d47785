"""What the evaluator would refuse, said for all variants before the first model is loaded."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models.evaluation.base import EvaluationMetric

from mlflow_llm_plugins.errors import InvalidInputError
from mlflow_llm_plugins.evaluation.chosen import chosen_metrics
from mlflow_llm_plugins.evaluation.columns import Columns, missing_message, missing_parameters
from mlflow_llm_plugins.evaluation.comparison.opened_model import FLAVOR
from mlflow_llm_plugins.evaluation.comparison.trial import Setup
from mlflow_llm_plugins.evaluation.comparison.variant import Variant
from mlflow_llm_plugins.evaluation.computing import RESERVED
from mlflow_llm_plugins.evaluation.predictions.features import INPUT_COLUMNS, Features
from mlflow_llm_plugins.lookup import did_you_mean
from mlflow_llm_plugins.metrics.engines import find_engine

_logger = logging.getLogger(__name__)


def refuse_self_judging(metrics: Iterable[EvaluationMetric]) -> None:
    """Refuse judges that nobody was named for: each variant would judge itself.

    Raises:
        InvalidInputError: Names the metric and the remedy.
    """
    from mlflow_llm_plugins.metrics.judge.chosen import JUDGE_VARIABLE, is_self_judging

    for metric in metrics:
        if is_self_judging(metric):
            raise InvalidInputError(
                f"{metric.name} has no judge, so each variant would judge its own answers, by another measure than "
                "the others and in its own favour. Name one judge for all: judge=..., for example 'models:/judge/1', "
                f"or the environment variable {JUDGE_VARIABLE}."
            )


def check_variants(variants: Mapping[str, Variant], setup: Setup) -> None:
    """Check settings, metrics and columns of each variant as far as that is possible without its model.

    Raises:
        InvalidInputError: Names the variant, what is wrong, and what is allowed.
    """
    sections: dict[str, Mapping[str, Any] | None] = {}
    for name, variant in variants.items():
        flavors = None
        if variant.is_loaded_here:
            if variant.model not in sections:
                sections[variant.model] = _flavors(variant.model)
            flavors = sections[variant.model]
        try:
            if flavors is not None:
                _check_config(variant, flavors)
            _check_columns(name, variant, setup, _asks_texts(variant, flavors))
        except InvalidInputError as error:
            text = str(error)
            raise InvalidInputError(text if text.startswith("models[") else f"models[{name!r}]: {text}") from error


def _flavors(uri: str) -> Mapping[str, Any] | None:
    """Those of the artifact, by its MLmodel file alone; None where it cannot be read, which loading says better."""
    from mlflow.models import Model

    try:
        flavors = Model.load(uri).flavors
    except Exception:  # of any store; the variant will fail with its reason, and the others go on
        _logger.debug("The MLmodel file of %r cannot be read yet.", uri, exc_info=True)
        return None
    return flavors if isinstance(flavors, Mapping) else None


def _check_config(variant: Variant, flavors: Mapping[str, Any]) -> None:
    """Keys that MLflow would only warn of, and then compare a model with itself."""
    section = flavors.get("python_function", {}).get("config") or {}
    for key in variant.load_config:
        if key not in section:
            known = f"There are: {', '.join(section)}" if section else "It was logged without any model_config"
            raise InvalidInputError(
                f"model_config: the artifact has no key {key!r}, so MLflow would ignore it."
                f"{did_you_mean(key, section)} {known}."
            )


def _asks_texts(variant: Variant, flavors: Mapping[str, Any] | None) -> bool:
    """Whether the model is sure to be a language model, asked with one column and answering with nothing else."""
    if isinstance(variant.model, str):
        return not variant.is_loaded_here or (flavors is not None and FLAVOR in flavors)
    return not variant.is_function and find_engine(variant.model) is not None


def _check_columns(name: str, variant: Variant, setup: Setup, asks_texts: bool) -> None:
    arguments = setup.data.arguments(name, variant, setup.asked_column)
    config = setup.config(variant, arguments["col_mapping"])
    frame = _table(arguments["data"])
    if frame is None:
        return
    columns = _columns(frame, variant, setup, config["col_mapping"])
    if asks_texts:
        wanted = config["col_mapping"].get("inputs")
        Features(columns.inputs).inputs(wanted if isinstance(wanted, str) else None)
    metrics = chosen_metrics(
        setup.model_type, setup.settings.metrics, setup.metrics_beside(variant), columns, has_engine=True
    )
    may_have_more = not asks_texts and variant.predictions is None  # only the model knows which columns it gives
    for metric in metrics:
        if metric.name in RESERVED:
            raise InvalidInputError(f"No metric may be called {metric.name!r}: the evaluator has figures of it.")
        others = [other.name for other in metrics if other is not metric]
        missing = missing_parameters(metric, columns, others)
        if missing and not (may_have_more and "targets" not in missing):
            raise InvalidInputError(missing_message(metric, missing, columns))


def _table(data: Any) -> pd.DataFrame | None:
    """None for what only MLflow can read."""
    if isinstance(data, list | np.ndarray):
        return pd.DataFrame(data if isinstance(data, list) else data.reshape(len(data), -1))
    frame = data if isinstance(data, pd.DataFrame) else getattr(data, "df", None)
    return frame if isinstance(frame, pd.DataFrame) else None


def _columns(frame: pd.DataFrame, variant: Variant, setup: Setup, mapping: Mapping[str, Any]) -> Columns:
    """As the evaluator will find them, without what it measures."""
    targets_name = setup.data.targets_name
    features = frame.drop(columns=[name for name in (targets_name, variant.predictions) if name in frame.columns])
    mapped = dict(mapping)
    likely = [column for column in features.columns if column in INPUT_COLUMNS]
    if variant.predictions is None and len(features.columns) == 1:
        likely = list(features.columns)
    if "inputs" not in mapped and "inputs" not in features.columns and len(likely) == 1:
        mapped["inputs"] = features[likely[0]]
    return Columns(
        inputs=features,
        targets=[] if setup.data.has_targets else None,
        targets_name=targets_name,
        predictions_name=variant.predictions,
        mapping=mapped,
    )
