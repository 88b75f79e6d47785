"""The load generator: what any OpenAI-compatible server, or stock MLflow's, does under many requests at once.

    python -m mlflow_llm_plugins.loadtest http://127.0.0.1:5001 --clients 16 --requests 64

From Python, `run_load(Target(url=...), Load(clients=16, requests=64))`. Knows the server by HTTP only. Needs
httpx, and the command needs rich and tqdm too.
"""

from mlflow_llm_plugins.loadtest.results import Distribution, LoadResult, RequestResult
from mlflow_llm_plugins.loadtest.run import LoadInterrupted, run_load
from mlflow_llm_plugins.loadtest.settings import Load, Objective, Target

__all__ = [
    "Distribution",
    "Load",
    "LoadInterrupted",
    "LoadResult",
    "Objective",
    "RequestResult",
    "Target",
    "run_load",
]
