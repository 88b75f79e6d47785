"""The plug `mlflow.model_evaluator: llm`, and what goes with it: comparisons of models, logged generations."""

from __future__ import annotations

from typing import Any

from mlflow_llm_plugins.lookup import resolve

_PACKAGE = "mlflow_llm_plugins.evaluation"
_EXPORTS = {
    "Comparison": f"{_PACKAGE}.comparison.compare:Comparison",
    "Variant": f"{_PACKAGE}.comparison.variant:Variant",
    "compare_models": f"{_PACKAGE}.comparison.compare:compare_models",
    "log_generations": f"{_PACKAGE}.generations:log_generations",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for only then: MLflow imports this package with itself."""
    if name in _EXPORTS:
        return resolve(name, _EXPORTS, "name")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*_EXPORTS]
