"""The plug `mlflow.deployments: local`: the three names that MLflow looks for in this module."""

from mlflow_llm_plugins.deployments.client import LLMDeploymentClient
from mlflow_llm_plugins.deployments.foreground import run_local
from mlflow_llm_plugins.deployments.target_help import target_help

__all__ = ["LLMDeploymentClient", "run_local", "target_help"]
