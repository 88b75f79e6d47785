from __future__ import annotations

import statistics
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_llm_plugins.evaluation.predictions.prediction import Prediction
from mlflow_llm_plugins.evaluation.results.run_figures import FIGURES, loaded_figures


@dataclass(frozen=True)
class Peak:
    rss_bytes: int | None
    gpu_bytes: int | None = None


SECONDS = st.floats(0.001, 100)
STREAMED = st.builds(
    lambda gaps, prompt: Prediction(
        "text",
        latency=sum(gaps),
        token_times=tuple(sum(gaps[: end + 1]) for end in range(len(gaps))),
        prompt_tokens=prompt,
        completion_tokens=len(gaps),
    ),
    st.lists(SECONDS, min_size=1, max_size=6),
    st.integers(1, 500),
)
FAILED = st.builds(lambda seconds: Prediction(error="refused", latency=seconds), SECONDS)


@given(st.lists(STREAMED, min_size=1, max_size=12), st.lists(FAILED, max_size=4), SECONDS)
def test_figures_are_those_of_the_standard_library(
    answered: list[Prediction], failed: list[Prediction], wall_s: float
):
    figures = loaded_figures([*failed, *answered], wall_s)
    latencies = [prediction.latency or 0 for prediction in answered]
    completions = sum(prediction.completion_tokens or 0 for prediction in answered)
    prompts = sum(prediction.prompt_tokens or 0 for prediction in answered)
    gaps = [gap for prediction in answered for gap in prediction.token_gaps]

    assert figures["rows"] == len(answered) + len(failed)
    assert figures["error_rate"] == pytest.approx(len(failed) / (len(answered) + len(failed)))
    assert figures["loaded_latency/mean"] == pytest.approx(statistics.fmean(latencies))
    assert figures["loaded_latency/p50"] == pytest.approx(statistics.median(latencies))
    assert figures["loaded_latency/count"] == len(answered)
    assert figures["loaded_time_to_first_token/mean"] == pytest.approx(
        statistics.fmean(prediction.token_times[0] for prediction in answered)
    )
    assert figures.get("loaded_inter_token_latency/count", 0) == len(gaps) == completions - len(answered)
    assert figures["throughput/requests_per_second"] == pytest.approx(len(answered) / wall_s)
    assert figures["throughput/output_tokens_per_second"] == pytest.approx(completions / wall_s)
    assert figures["throughput/total_tokens_per_second"] == pytest.approx((prompts + completions) / wall_s)
    assert figures["completion_tokens/total"] == completions
    assert figures["prompt_tokens/mean"] == pytest.approx(prompts / len(answered))


@given(st.lists(STREAMED, min_size=1, max_size=4), st.lists(FAILED, max_size=2), SECONDS)
def test_all_figures_are_among_those_that_no_metric_may_be_called(
    answered: list[Prediction], failed: list[Prediction], wall_s: float
):
    figures = loaded_figures([*answered, *failed], wall_s, Peak(1, 2))
    assert {key.partition("/")[0] for key in figures} <= FIGURES


def test_percentiles_interpolate_between_neighbours():
    figures = loaded_figures([Prediction("a", latency=seconds) for seconds in (3.0, 1.0, 2.0)])
    assert figures["loaded_latency/p90"] == pytest.approx(2.8)
    assert figures["loaded_latency/p99"] == pytest.approx(2.98)


def test_time_per_output_token_is_one_mean_an_answer_and_gaps_are_pooled():
    quick = Prediction("a", latency=3.0, token_times=(1.0, 2.0, 3.0), completion_tokens=3)
    slow = Prediction("b", latency=6.0, token_times=(1.0, 6.0), completion_tokens=2)
    figures = loaded_figures([quick, slow])
    assert figures["loaded_time_per_output_token/mean"] == pytest.approx((1 + 5) / 2)
    assert figures["loaded_inter_token_latency/mean"] == pytest.approx((1 + 1 + 5) / 3)


def test_static_predictions_have_rows_and_an_error_rate_only():
    rows = [Prediction("a"), Prediction(error="the prediction is missing")]
    assert loaded_figures(rows) == {"rows": 2.0, "error_rate": 0.5}


def test_totals_that_not_every_answer_knows_are_left_out():
    known, unknown = Prediction("a", latency=1.0, completion_tokens=4), Prediction("b", latency=1.0)
    figures = loaded_figures([known, unknown], wall_s=2.0)
    assert (figures["completion_tokens/mean"], figures["completion_tokens/count"]) == (4, 1)
    assert not {"completion_tokens/total", "throughput/output_tokens_per_second", "prompt_tokens/count"} & set(figures)


def test_a_model_that_answered_nothing_has_a_throughput_of_zero():
    figures = loaded_figures([Prediction(error="refused")], wall_s=2.0)
    assert figures == {"rows": 1.0, "error_rate": 1.0, "throughput/requests_per_second": 0.0}


def test_memory_is_told_where_it_is_known():
    assert loaded_figures([], memory=Peak(2_000)) == {"rows": 0.0, "peak_memory/rss_bytes": 2000.0}
    assert loaded_figures([], memory=Peak(None, 5))["peak_memory/gpu_bytes"] == 5
