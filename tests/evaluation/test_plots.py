from __future__ import annotations

import math
import random
import subprocess
import sys

import mlflow
import numpy as np
import pytest
from mlflow.metrics.base import MetricValue

from mlflow_llm_plugins.evaluation.predictions.prediction import Prediction
from mlflow_llm_plugins.evaluation.results.plots import log as plot_log
from mlflow_llm_plugins.evaluation.results.plots import log_plots
from mlflow_llm_plugins.evaluation.results.plots.histograms import score_histograms
from mlflow_llm_plugins.evaluation.results.plots.latency import latency_plot
from mlflow_llm_plugins.evaluation.results.plots.overview import metrics_overview


def _texts(figure) -> str:
    from matplotlib.text import Text

    return "\n".join(text.get_text() for text in figure.findobj(Text))


def test_the_histogram_counts_every_latency_and_the_cumulated_line_ends_at_one():
    rng = random.Random(1)
    loaded, unloaded = [rng.gammavariate(4, 0.8) for _ in range(57)], [rng.uniform(0.01, 0.02) for _ in range(16)]
    histogram, cumulated = latency_plot([*loaded, None, math.nan], unloaded).axes
    counts = [sum(bar.get_height() for bar in bars) for bars in histogram.containers]
    assert counts == [57, 16]
    for line, seconds in zip(cumulated.lines, (loaded, unloaded), strict=True):
        assert line.get_ydata()[-1] == 1
        assert list(line.get_xdata()[1:]) == sorted(seconds)
    assert histogram.get_xscale() == "log"
    assert f"p50 {np.median(loaded):.3g} s" in _texts(cumulated)


@pytest.mark.parametrize("seconds", [[0.5], [0.5] * 40, [0.0, 3.0], [1e-9, 1e9], [0.3, 0.3 + 1e-16]])
def test_unusual_latencies_are_drawn_and_counted(seconds: list[float]):
    figure = latency_plot(seconds)
    figure.canvas.draw()
    assert sum(bar.get_height() for bar in figure.axes[0].containers[0]) == len(seconds)


def test_without_latencies_or_scores_there_is_no_plot():
    assert latency_plot([None, math.nan]) is None
    assert score_histograms({"a": None, "b": ["text", None]}) is None
    assert metrics_overview({"a": [math.nan, math.inf]}) is None


def test_whole_numbers_are_bars_and_other_scores_bins():
    scores = {"grade/v1": [1, 5, 5, 4, math.nan], "share/v1": [0.1, 0.7, 0.3, True], "none/v1": [None] * 4}
    bars, bins = score_histograms(scores).axes[:2]
    assert [bar.get_height() for bar in bars.containers[0]] == [1, 1, 2]
    assert [tick.get_text() for tick in bars.get_xticklabels()] == ["1", "2", "3", "4", "5"]
    assert sum(bar.get_height() for bar in bins.containers[0]) == 4
    assert bars.get_title() == "grade/v1 (n=4)"


def test_more_metrics_than_fit_are_said_to_be_left_out():
    scores = {f"metric_{number}": [0.1, 0.2] for number in range(30)}
    histograms, overview = score_histograms(scores), metrics_overview(scores)
    assert "first 12 of 30 metrics" in _texts(histograms)
    assert "metric_11" in _texts(histograms)
    assert "metric_12" not in _texts(histograms)
    assert "first 24 of 30 metrics" in _texts(overview)


def test_the_overview_tells_each_mean_and_scale():
    rng = random.Random(2)
    shares, grades = [rng.random() for _ in range(50)], [rng.uniform(80, 100) for _ in range(40)]
    texts = _texts(metrics_overview({"share/v1": shares, "grade/v1": [*grades, None]})).splitlines()
    assert {"share/v1", "0", "1", f"{np.mean(shares):.4g}  (n=50)"} <= set(texts)
    assert {"grade/v1", f"{min(grades):.4g}", f"{max(grades):.4g}", f"{np.mean(grades):.4g}  (n=40)"} <= set(texts)


@pytest.mark.parametrize("values", [[3.7] * 5, [0.0], [-1e300, 1e300], [1e-310, 2e-310], [-5.0, -4.9], [10**6, 10**6]])
def test_unusual_scores_and_names_are_drawn(values: list[float]):
    for draw in (score_histograms, metrics_overview):
        figure = draw({"$cost$ of a metric with a very long name indeed": values})
        figure.canvas.draw()
        assert r"\$cost\$" in _texts(figure)


def test_plots_are_logged_and_their_images_loaded(tracking: str):
    predictions = [Prediction("a", latency=0.5), Prediction("b", latency=0.7), Prediction(error="refused")]
    with mlflow.start_run() as run:
        artifacts = log_plots(predictions, {"m/v1": MetricValue(scores=[1.0, 2.0, None])}, run.info.run_id)
    assert set(artifacts) == {"llm_latency", "llm_scores", "llm_metrics"}
    files = {file.path for file in mlflow.MlflowClient().list_artifacts(run.info.run_id)}
    assert files == {"llm_latency.png", "llm_scores.png", "llm_metrics.png"}
    for name, artifact in artifacts.items():
        assert artifact.uri.endswith(f"/{name}.png")
        assert artifact.content.size[0] > 300


def test_a_second_evaluation_in_a_run_keeps_the_plots_of_the_first(tracking: str):
    run_id = mlflow.MlflowClient().create_run("1").info.run_id
    metrics = {"m/v1": MetricValue(scores=[1.0])}
    log_plots([Prediction("a")], metrics, run_id)
    second = log_plots([Prediction("a")], metrics, run_id)
    assert second["llm_scores"].uri.endswith("/llm_scores_2.png")
    prefixed = log_plots([Prediction("a")], metrics, run_id, prefix="held_out/")
    assert prefixed["llm_scores"].uri.endswith("/held_out/llm_scores.png")
    assert "llm_latency" not in second


def test_a_plot_that_fails_costs_a_warning_and_no_other_plot(
    tracking: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def broken(*_: object) -> None:
        raise ArithmeticError("no such scale")

    monkeypatch.setattr(plot_log, "metrics_overview", broken)
    run_id = mlflow.MlflowClient().create_run("1").info.run_id
    artifacts = log_plots([Prediction("a", latency=1.0)], {"m/v1": MetricValue(scores=[1.0])}, run_id)
    assert set(artifacts) == {"llm_latency", "llm_scores"}
    assert "The plot 'llm_metrics' is left out" in caplog.text


def test_drawing_neither_imports_pyplot_nor_changes_settings():
    code = """
import sys
from mlflow_llm_plugins.evaluation.results.plots.canvas import new_figure
from mlflow_llm_plugins.evaluation.results.plots.overview import metrics_overview
from mlflow_llm_plugins.evaluation.results.plots.histograms import score_histograms
from mlflow_llm_plugins.evaluation.results.plots.latency import latency_plot
import matplotlib
names = [name for name in matplotlib.rcParams if name != "backend"]  # to read that one imports pyplot
settings = [matplotlib.rcParams[name] for name in names]
for figure in (metrics_overview({"a": [1.5, 2]}), score_histograms({"a": [1, 2]}), latency_plot([1, 2])):
    figure.canvas.draw()
print("matplotlib.pyplot" in sys.modules, [matplotlib.rcParams[name] for name in names] == settings)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
