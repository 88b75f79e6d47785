from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mlflow_llm_plugins.evaluation.comparison.bootstrap import BootstrapOptions
from mlflow_llm_plugins.evaluation.comparison.differences import differences_table
from mlflow_llm_plugins.evaluation.comparison.measures import measures_of
from mlflow_llm_plugins.evaluation.comparison.pareto_points import pareto_points
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


def pareto(trials, quality=MEASURES[0]):
    return pareto_chart(pareto_points(trials, quality, MEASURES))


def test_the_pareto_plot_draws_the_front_and_all_variants():
    figure = pareto(TRIALS)
    figure.canvas.draw()
    axes = figure.axes[0]
    assert list(zip(*axes.lines[0].get_data(), strict=True)) == [(1.0, 0.4), (2.0, 0.6)]
    assert sorted(tuple(c.get_offsets()[0]) for c in axes.collections) == [(1.0, 0.4), (2.0, 0.6), (3.0, 0.3)]
    areas = [float(c.get_sizes()[0]) for c in axes.collections]
    assert areas[0] / areas[1] == pytest.approx(13 / 14)
    assert "area: model/size_bytes" in texts(figure)
    assert "latency, one request at a time (s), lower is better" in texts(figure)


def test_sizes_in_memory_go_before_those_of_files_and_only_if_all_have_them():
    loaded = [
        replace(given, figures={**given.figures, "model/loaded_weight_bytes": size})
        for given, size in zip(TRIALS, (4e9, 8e9, 1e9), strict=True)
    ]
    figure = pareto(loaded)
    areas = [float(c.get_sizes()[0]) for c in figure.axes[0].collections]
    assert areas[0] / areas[1] == pytest.approx(4 / 8)
    assert "area: model/loaded_weight_bytes" in texts(figure)
    assert "area: model/size_bytes" in texts(pareto([*loaded[:2], TRIALS[2]]))
    chart = metrics_chart(scores_table(loaded, MEASURES, None, OPTIONS), summary(loaded), 0.95)
    assert "model/loaded_weight_GB" in texts(chart)
    assert "model/size_GB" not in texts(chart)


def test_variants_without_latency_stay_out_of_the_pareto_plot():
    timed, untimed = trial("a", 0.5, 1.0), trial("finished", 0.9, None)
    figure = pareto([timed, untimed])
    assert len(figure.axes[0].collections) == 1
    assert "finished" not in texts(figure)
    assert pareto([untimed]) is None
    assert pareto([timed], None) is None


def rows_of(name: str, right: list, seconds: list) -> Trial:
    failed = [cell is None for cell in right]
    rows = pd.DataFrame({"rouge1/v1/score": right, "latency/v1/score": seconds}, dtype=object)
    known = [cell for cell in right if cell is not None]
    figures = {"rouge1": float(np.mean(known)), "latency": float(np.mean([s for s in seconds if s is not None]))}
    return Trial(name, Variant(model="models:/x/1"), "run", {**figures, "error_rate": float(np.mean(failed))}, rows)


def test_the_pareto_plot_is_of_rows_that_all_have_and_marks_failures():
    whole = rows_of("whole", [1.0, 1.0, 0.0, 0.0], [1.0, 2.0, 30.0, 40.0])
    fails = rows_of("fails", [0.5, 1.0, None, None], [2.0, 3.0, None, None])
    figure = pareto([whole, fails])
    figure.canvas.draw()
    points = [tuple(c.get_offsets()[0]) for c in figure.axes[0].collections]
    assert points == [(1.5, 1.0), (2.5, 0.75)]
    assert "in the 2 of 4 rows that all have" in texts(figure)
    assert "fails\n(50% of its rows failed)" in texts(figure)
    scores = scores_table([whole, fails], MEASURES, None, OPTIONS)
    assert "higher is better; of 2 to 4 rows" in texts(metrics_chart(scores, summary([whole, fails]), 0.95))


def test_more_points_than_have_room_for_names_are_numbered():
    many = [trial(f"variant number {i} with a long name", 0.1 * i, 0.01 * (i + 1)) for i in range(10)]
    figure = pareto(many)
    figure.canvas.draw()
    assert {"1", "10"} <= set(texts(figure).split("\n"))
    assert "10  variant number 9 with a long name" in texts(figure)
    assert "latency, one request at a time (ms)" in texts(figure)
    chart = metrics_chart(scores_table(many, MEASURES, None, OPTIONS), summary(many), 0.95)
    chart.canvas.draw()
    (legend,) = chart.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= chart.bbox.width
    looks = {(patch.get_facecolor(), patch.get_hatch()) for patch in legend.get_patches()}
    assert len(looks) == 10


def test_numbers_stand_beyond_their_bars():
    figure = metrics_chart(scores_table(TRIALS[:2], MEASURES, None, OPTIONS), summary(TRIALS[:2]), 0.95)
    figure.canvas.draw()
    axes = figure.axes[0]
    tops = [patch.get_window_extent().y1 for patch in axes.patches]
    assert len(axes.texts) == 1 + len(tops) == 3  # also which side is better
    for text, top in zip(axes.texts[:2], tops, strict=True):
        assert top < text.get_window_extent().y0 < text.get_window_extent().y1 < axes.bbox.y1 + 1


def test_a_metric_without_a_better_side_says_none():
    measures = measures_of(metrics_of(["word_count"]))
    counted = [Trial("a", Variant(model=str), "run", {}, pd.DataFrame({"word_count/v1/score": [3, 4]}))]
    figure = metrics_chart(scores_table(counted, measures, None, OPTIONS), summary(counted), 0.95)
    assert "is better" not in texts(figure)


def test_one_variant_is_drawn_and_nothing_is_no_plot():
    alone = [TRIALS[0]]
    empty = differences_table(alone, "Llama", MEASURES, OPTIONS)
    assert differences_chart(empty, 0.95) is None
    metrics_chart(scores_table(alone, MEASURES, None, OPTIONS), summary(alone), 0.95).canvas.draw()
    failed = [Trial("failed", Variant(model="models:/x/1"), "run", error="gone")]
    assert metrics_chart(scores_table(failed, MEASURES, None, OPTIONS), summary(failed), 0.95) is None
    assert pareto(failed) is None
