"""Plots of an evaluation, logged as images: to add one, a function that draws it and a row in `log_plots`."""

from mlflow_llm_plugins.evaluation.results.plots.log import log_plots

__all__ = ["log_plots"]
