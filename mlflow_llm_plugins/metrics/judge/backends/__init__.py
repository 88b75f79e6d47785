"""Who can be asked for a verdict, by kind. To add one: a file with a class that implements `JudgeBackend`, and a row.

A backend of your own needs no row: give the object itself, or "package.module:factory".
"""

from __future__ import annotations

from mlflow_llm_plugins.metrics.judge.backends.forms import backend_of

_PACKAGE = "mlflow_llm_plugins.metrics.judge.backends"

JUDGES: dict[str, str] = {
    "local": f"{_PACKAGE}.local:LocalJudge",  # a model in this process
    "server": f"{_PACKAGE}.server:ServerJudge",  # any server of typed decisions or of OpenAI's chats
    "deployment": f"{_PACKAGE}.deployment:DeploymentJudge",  # through a client of `mlflow.deployments`
    "mlflow": f"{_PACKAGE}.mlflow_judge:MlflowJudge",  # whatever MLflow's own judges can ask
    "function": f"{_PACKAGE}.function:FunctionJudge",  # a Python function
}

__all__ = ["JUDGES", "backend_of"]
