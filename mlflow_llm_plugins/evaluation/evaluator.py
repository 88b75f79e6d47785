"""The plug `mlflow.model_evaluator: llm`. `import mlflow` loads it, so all else waits for the first evaluation."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

from mlflow.models.evaluation.base import ModelEvaluator

from mlflow_llm_plugins.errors import mlflow_errors
from mlflow_llm_plugins.evaluation.invitation import is_invited

if TYPE_CHECKING:
    from mlflow.models.evaluation.base import EvaluationResult


class LLMEvaluator(ModelEvaluator):
    """Evaluates language models: `mlflow.models.evaluate(..., evaluators="llm")`."""

    @classmethod
    def can_evaluate(cls, *, model_type: str | None, evaluator_config: Any, **kwargs: Any) -> bool:
        """Whether the user asked for it: by name, by a config under its name, or by `model_type` "llm" or "chat"."""
        return is_invited(sys._getframe(1), model_type, evaluator_config)

    def evaluate(
        self,
        *,
        model_type: str | None,
        dataset: Any,
        run_id: str,
        evaluator_config: Any,
        model: Any = None,
        extra_metrics: Any = None,
        custom_artifacts: Any = None,
        predictions: Any = None,
        model_id: str | None = None,
        **kwargs: Any,
    ) -> EvaluationResult:
        """Ask the model, compute the metrics and log both, see `EvaluatorSettings` for `evaluator_config`.

        Raises:
            MlflowException: Bad data, settings or metrics, before the model is asked; more failed rows than
                `max_error_rate` allows, after everything was logged.
        """
        from mlflow_llm_plugins.evaluation.evaluation import Evaluation

        _keep_warnings_shown()
        with mlflow_errors():
            evaluation = Evaluation.of(
                model=model,
                model_type=model_type,
                dataset=dataset,
                evaluator_config=evaluator_config,
                extra_metrics=extra_metrics or [],
                custom_artifacts=custom_artifacts,
                predictions_column=predictions,
            )
            return evaluation.run(run_id=run_id, model_id=model_id)


def _keep_warnings_shown() -> None:
    """Undo for this package what MLflow has just done to the whole process.

    Where torch is loaded, an evaluation imports `mlflow.pytorch._lightning_autolog`, which has Python's root logger
    show errors only (to 3.17): metrics without a value and judges that cannot be trusted would go unnoticed.
    """
    ours = logging.getLogger(__name__.partition(".")[0])
    if ours.level == logging.NOTSET and ours.getEffectiveLevel() > logging.WARNING:
        ours.setLevel(logging.WARNING)
