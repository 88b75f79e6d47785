from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mlflow_llm_plugins.evaluation.comparison.bootstrap import BootstrapOptions
from mlflow_llm_plugins.evaluation.comparison.differences import differences_table
from mlflow_llm_plugins.evaluation.comparison.measures import measures_of
from mlflow_llm_plugins.evaluation.comparison.plots.differences_chart import differences_chart
from mlflow_llm_plugins.evaluation.comparison.plots.metrics_chart import metrics_chart
from mlflow_llm_plugins.evaluation.comparison.plots.pareto_chart import pareto_chart
from mlflow_llm_plugins.evaluation.comparison.scores import scores_table
from mlflow_llm_plugins.evaluation.comparison.summary import summary_table
from mlflow_llm_plugins.evaluation.comparison.trial import Trial
from mlflow_llm_plugins.evaluation.comparison.variant import Variant
from mlflow_llm_plugins.metrics.naming import metrics_of

OPTIONS = BootstrapOptions(n_resamples=100)
MEASURES = measures_of(metrics_of(["rouge1", "latency"]))
GROUPS = ["alpaca", "mbpp"] * 10


def trial(name: str, quality: float, latency: float | None, size: float | None = None) -> Trial:
    rng = np.random.default_rng(len(name))
    scores = rng.normal(quality, 0.1, 20)
    figures = {"rouge1": quality, "latency": latency, "model/size_bytes": size}
    known = {key: value for key, value in figures.items() if value is not None}
    rows = pd.DataFrame({"rouge1/v1/score": scores}, dtype=object)
    return Trial(name, Variant(model="models:/x/1"), "run", known, rows)


def summary(trials):
    return summary_table(trials, trials[0].name, MEASURES)


def texts(figure) -> str:
    from matplotlib.text import Text

    return "\n".join(text.get_text() for text in figure.findobj(Text))


TRIALS = [trial("Llama", 0.4, 1.0, 13e9), trial("Mistral", 0.6, 2.0, 14e9), trial("slow $x$", 0.3, 3.0, 1e6)]


def test_each_variant_has_a_bar_in_each_group_as_high_as_its_mean():
    scores = scores_table(TRIALS, MEASURES, GROUPS, OPTIONS)
    figure = metrics_chart(scores, summary(TRIALS), 0.95)
    figure.canvas.draw()
    bars = [bar for container in figure.axes[0].containers if hasattr(container, "patches") for bar in container]
    heights = sorted(bar.get_height() for bar in bars if hasattr(bar, "get_height"))
    assert heights == pytest.approx(sorted(map(float, scores["value"])))
    assert len(heights) == 6
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["alpaca", "mbpp"]
    for expected in ("rouge1", "higher is better", "Llama", "Mistral", r"slow \$x\$", "model/size_GB"):
        assert expected in texts(figure)


def test_a_variant_without_numbers_takes_no_room():
    failed = Trial("failed", Variant(model="models:/x/1"), "run", error="gone")
    figure = metrics_chart(scores_table(TRIALS, MEASURES, None, OPTIONS), summary([*TRIALS, failed]), 0.95)
    assert "failed" not in texts(figure)


def test_more_metrics_than_panels_are_counted():
    scores = scores_table(TRIALS, MEASURES, None, OPTIONS)
    many = pd.concat([scores.assign(metric=f"m{i}") for i in range(30)])
    figure = metrics_chart(many, summary(TRIALS), 0.95)
    assert "7 more in the table" in texts(figure)  # 30 metrics and the sizes, 24 panels


def test_the_forest_has_a_line_for_each_variant_and_tells_better_from_worse():
    differences = differences_table(TRIALS, "Llama", MEASURES, OPTIONS)
    figure = differences_chart(differences, 0.9)
    figure.canvas.draw()
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["Mistral", r"slow \$x\$"]
    points = {line.get_marker(): line.get_xdata()[0] for line in axes.lines if line.get_marker() in "^vo"}
    rows = differences[differences["kind"] == "difference of means"].set_index("verdict")["estimate"]
    assert points["^"] == rows["better"]
    assert "Against Llama, with 0.9 intervals" in texts(figure)


def test_the_pareto_plot_draws_the_front_and_all_variants():
    figure = pareto_chart(summary(TRIALS), MEASURES[0])
    figure.canvas.draw()
    axes = figure.axes[0]
    assert list(zip(*axes.lines[0].get_data(), strict=True)) == [(1.0, 0.4), (2.0, 0.6)]
    assert sorted(tuple(c.get_offsets()[0]) for c in axes.collections) == [(1.0, 0.4), (2.0, 0.6), (3.0, 0.3)]
    areas = [float(c.get_sizes()[0]) for c in axes.collections]
    assert areas[0] / areas[1] == pytest.approx(13 / 14)
    assert "area: model/size_bytes" in texts(figure)


def test_variants_without_latency_stay_out_of_the_pareto_plot():
    timed, untimed = trial("a", 0.5, 1.0), trial("finished", 0.9, None)
    figure = pareto_chart(summary([timed, untimed]), MEASURES[0])
    assert len(figure.axes[0].collections) == 1
    assert "finished" not in texts(figure)
    assert pareto_chart(summary([untimed]), MEASURES[0]) is None


def test_one_variant_is_drawn_and_nothing_is_no_plot():
    alone = [TRIALS[0]]
    empty = differences_table(alone, "Llama", MEASURES, OPTIONS)
    assert differences_chart(empty, 0.95) is None
    metrics_chart(scores_table(alone, MEASURES, None, OPTIONS), summary(alone), 0.95).canvas.draw()
    failed = [Trial("failed", Variant(model="models:/x/1"), "run", error="gone")]
    assert metrics_chart(scores_table(failed, MEASURES, None, OPTIONS), summary(failed), 0.95) is None
    assert pareto_chart(summary(failed), MEASURES[0]) is None
