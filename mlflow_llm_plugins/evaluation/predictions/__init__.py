"""Rows of data to predictions, whatever answers them; each row for itself, so one that fails leaves the others alone.

`source` finds out what a model is: an engine of this process, an endpoint, another model, or finished predictions.
To add a kind of model: a file with a `Source`, and a row in `source.SOURCES`.
"""

from mlflow_llm_plugins.evaluation.predictions.memory import PeakMemory
from mlflow_llm_plugins.evaluation.predictions.prediction import Prediction
from mlflow_llm_plugins.evaluation.predictions.source import PredictOptions, Source, source_of

__all__ = ["PeakMemory", "PredictOptions", "Prediction", "Source", "source_of"]
