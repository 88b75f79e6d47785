"""What a score depends on, logged so that it can be reproduced: settings, prompts, judges, versions."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from mlflow_llm_plugins.evaluation.computing import Computed
from mlflow_llm_plugins.evaluation.results.artifact_file import free_file
from mlflow_llm_plugins.evaluation.results.cells import json_value
from mlflow_llm_plugins.evaluation.settings import EvaluatorSettings

_STEM = "llm_evaluation"
_PACKAGES = (
    "mlflow-llm-plugins",
    "mlflow",
    "textstat",
    "rouge-score",
    "sacrebleu",
    "evaluate",
    "transformers",
    "torch",
)


def log_record(
    computed: Sequence[Computed], source: dict[str, Any], settings: EvaluatorSettings, run_id: str
) -> dict[str, Any]:
    """Log `llm_evaluation.json`, with a number where the run has that file already.

    Args:
        computed: The metrics; `metric_metadata` holds what their scores depend on.
        source: What answered, and how it was asked.
        settings: Of the evaluation.
        run_id: The run.

    Returns:
        `llm_evaluation` -> its artifact with the content.
    """
    import mlflow
    from mlflow.models.evaluation.artifacts import JsonEvaluationArtifact
    from mlflow.tracking.artifact_utils import get_artifact_uri

    record = {
        "source": source,
        "settings": settings.model_dump(exclude={"metrics", "col_mapping"}),
        "metrics": {each.key: _described(each) for each in computed},
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
    }
    content = json_value(record)
    with free_file(run_id, settings.metric_prefix + _STEM, ".json") as file:
        mlflow.MlflowClient().log_dict(run_id, content, file)
    return {_STEM: JsonEvaluationArtifact(uri=get_artifact_uri(run_id, file), content=content)}


def _described(computed: Computed) -> dict[str, Any]:
    metric = computed.metric
    details = {
        "details": metric.metric_details,
        "greater_is_better": metric.greater_is_better,
        "metadata": metric.metric_metadata,
        "failure": computed.failure,
    }
    return {name: value for name, value in details.items() if value not in (None, {})}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
