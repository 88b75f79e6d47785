"""A judge in this process, whose verdict is read from the log-probabilities of the options; it writes none."""

from mlflow_llm_plugins.metrics.judge.backends.local.local_judge import LocalJudge

__all__ = ["LocalJudge"]
