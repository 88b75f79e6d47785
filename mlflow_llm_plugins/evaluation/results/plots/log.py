"""Plots into a run; one that fails costs a warning, never the evaluation."""

from __future__ import annotations

import logging
import posixpath
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_llm_plugins.evaluation.predictions.prediction import Prediction
from mlflow_llm_plugins.evaluation.results.artifact_file import free_file
from mlflow_llm_plugins.evaluation.results.plots.histograms import score_histograms
from mlflow_llm_plugins.evaluation.results.plots.latency import latency_plot
from mlflow_llm_plugins.evaluation.results.plots.overview import metrics_overview

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.metrics.base import MetricValue

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoggedPlot:
    """An image in a run."""

    file: str
    artifact: Any  # an ImageEvaluationArtifact with its content


def log_plots(
    predictions: Sequence[Prediction],
    metrics: Mapping[str, MetricValue],
    run_id: str,
    *,
    unloaded: Iterable[float | None] = (),
    prefix: str = "",
) -> dict[str, Any]:
    """Draw an evaluation and log the images at the root of the run's artifacts.

    Args:
        predictions: With their latencies where a model was asked.
        metrics: Key, `name/version`, -> one score a row.
        run_id: The run.
        unloaded: Latencies of one request at a time, in seconds.
        prefix: Before the names of the files: the setting `metric_prefix`.

    Returns:
        `llm_latency`, `llm_scores` and `llm_metrics` -> an `ImageEvaluationArtifact` with its content, logged as
        `llm_latency.png` and so on; with a number where the run has that file already. A plot without data is left
        out, and so is one that fails, with a warning.
    """
    scores = {key: value.scores for key, value in metrics.items()}
    latencies = [prediction.latency for prediction in predictions if prediction.error is None]
    plots: dict[str, Callable[[], Figure | None]] = {
        "llm_latency": partial(latency_plot, latencies, unloaded),
        "llm_scores": partial(score_histograms, scores),
        "llm_metrics": partial(metrics_overview, scores),
    }
    logged = {name: log_plot(name, draw, run_id, prefix) for name, draw in plots.items()}
    return {name: plot.artifact for name, plot in logged.items() if plot is not None}


def log_plot(name: str, draw: Callable[[], Figure | None], run_id: str, prefix: str = "") -> LoggedPlot | None:
    """Draw and log one plot as `prefix` and `name` with `.png`, with a number where the run has that file already.

    Returns:
        None where there is nothing to draw; and where drawing or logging fails, with a warning.
    """
    try:
        figure = draw()
        return None if figure is None else _logged(figure, run_id, prefix + name)
    except Exception:
        _logger.warning("The plot %r is left out: it could not be drawn or logged.", name, exc_info=True)
        return None


def _logged(figure: Figure, run_id: str, stem: str) -> LoggedPlot:
    import mlflow
    from mlflow.models.evaluation.artifacts import ImageEvaluationArtifact
    from mlflow.tracking.artifact_utils import get_artifact_uri

    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder, "plot.png")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph", UserWarning)  # a metric's name in a script without a font
            figure.savefig(image)
        with free_file(run_id, stem, ".png") as file:
            image = image.rename(Path(folder, posixpath.basename(file)))
            mlflow.MlflowClient().log_artifact(run_id, str(image), posixpath.dirname(file) or None)
        artifact = ImageEvaluationArtifact(uri=get_artifact_uri(run_id, file))
        artifact._load(str(image))
    return LoggedPlot(file, artifact)
