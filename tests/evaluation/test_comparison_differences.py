from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from mlflow.metrics.base import MetricValue
from mlflow.models import make_metric
from scipy import stats

from mlflow_llm_plugins.evaluation.comparison.bootstrap import BootstrapOptions
from mlflow_llm_plugins.evaluation.comparison.differences import differences_table
from mlflow_llm_plugins.evaluation.comparison.measures import main_quality, measures_of
from mlflow_llm_plugins.evaluation.comparison.scores import scores_table
from mlflow_llm_plugins.evaluation.comparison.summary import summary_table
from mlflow_llm_plugins.evaluation.comparison.trial import Trial
from mlflow_llm_plugins.evaluation.comparison.variant import Variant
from mlflow_llm_plugins.metrics.metric import LLMMetric
from mlflow_llm_plugins.metrics.naming import metrics_of

OPTIONS = BootstrapOptions(n_resamples=1000)
ROWS = 60


def measures(*names):
    return measures_of(metrics_of(names))


def trial(name: str, figures=None, error=None, **columns) -> Trial:
    rows = (
        None
        if error
        else pd.DataFrame({key.replace("__", "/"): cells for key, cells in columns.items()}, dtype=object)
    )
    return Trial(name, Variant(model=f"models:/{name}/1"), f"run-{name}", figures or {}, rows, error)


def only(differences: pd.DataFrame) -> dict:
    assert len(differences) == 1
    return differences.iloc[0].to_dict()


def compared(metric: str, a: Trial, b: Trial) -> dict:
    return only(differences_table([a, b], "a", measures(metric), OPTIONS))


def scored(rng, low=0.0, high=1.0):
    return list(rng.uniform(low, high, ROWS))


def test_a_difference_is_paired_row_by_row_over_the_rows_that_both_have():
    rng = np.random.default_rng(0)
    a, b = scored(rng), scored(rng, 0.2, 1.2)
    a[3], b[5], b[6], a[9], b[9] = None, None, math.inf, None, None
    line = compared("rouge1", trial("a", rouge1__v1__score=a), trial("b", rouge1__v1__score=b))
    rows = [i for i in range(ROWS) if i not in (3, 5, 6, 9)]
    gains = np.array([b[i] - a[i] for i in rows])
    expected = stats.bootstrap((gains,), np.mean, n_resamples=1000, rng=np.random.default_rng(0)).confidence_interval
    assert (line["n"], line["dropped"]) == (56, 4)
    assert line["baseline_value"] == pytest.approx(np.mean([a[i] for i in rows]))
    assert line["variant_value"] == pytest.approx(np.mean([b[i] for i in rows]))
    assert line["estimate"] == pytest.approx(gains.mean())
    assert (line["low"], line["high"]) == pytest.approx(expected)
    assert (line["wins"], line["ties"], line["losses"]) == ((gains > 0).sum(), 0, (gains < 0).sum())
    assert (line["metric"], line["variant"], line["baseline"]) == ("rouge1", "b", "a")
    assert (line["kind"], line["method"], line["note"]) == ("difference of means", "BCa", None)


@pytest.mark.parametrize(("metric", "verdict"), [("rouge1", "better"), ("ari_grade_level", "worse")])
def test_a_rise_is_better_or_worse_as_the_metric_says(metric: str, verdict: str):
    rng = np.random.default_rng(1)
    a = np.array(scored(rng))
    b = a + rng.uniform(0.1, 0.3, ROWS)
    key = f"{metric}__v1__score"
    line = compared(metric, trial("a", **{key: a}), trial("b", **{key: b}))
    assert line["verdict"] == verdict
    assert (line["wins"], line["losses"]) == ((ROWS, 0) if verdict == "better" else (0, ROWS))
    back = only(differences_table([trial("a", **{key: a}), trial("b", **{key: b})], "b", measures(metric), OPTIONS))
    assert back["estimate"] == pytest.approx(-line["estimate"])
    assert {back["verdict"], verdict} == {"better", "worse"}


def test_noise_around_nothing_is_unclear():
    gains = np.random.default_rng(2).normal(0, 1, ROWS)
    gains -= gains.mean()
    a = np.random.default_rng(3).uniform(0, 1, ROWS)
    line = compared("rouge1", trial("a", rouge1__v1__score=a), trial("b", rouge1__v1__score=a + gains))
    assert line["verdict"] == "unclear"
    assert line["low"] < 0 < line["high"]


def test_few_rows_are_called_indicative_and_one_row_has_no_interval():
    a, b = [0.1, 0.2, 0.3, 0.9], [0.2, 0.5, 0.3, 0.8]
    line = compared("rouge1", trial("a", rouge1__v1__score=a), trial("b", rouge1__v1__score=b))
    assert line["note"] == "indicative: fewer than 50 rows; no verdict of fewer than 10 rows"
    assert line["verdict"] is None
    assert (line["wins"], line["ties"], line["losses"]) == (2, 1, 1)
    single = compared("rouge1", trial("a", rouge1__v1__score=a), trial("b", rouge1__v1__score=[0.5, None, None, None]))
    assert single["note"] == "fewer than two rows with a number on both sides: no interval"
    assert (single["n"], single["dropped"], single["method"], single["verdict"]) == (1, 3, None, None)
    assert single["estimate"] == pytest.approx(0.4)
    assert math.isnan(single["low"])


def test_rows_that_never_meet_leave_a_line_without_numbers():
    line = compared("rouge1", trial("a", rouge1__v1__score=[0.5, None]), trial("b", rouge1__v1__score=[None, 0.5]))
    assert (line["n"], line["dropped"]) == (0, 2)
    assert math.isnan(line["estimate"])


def test_equal_variants_do_not_differ():
    a = scored(np.random.default_rng(4))
    line = compared("rouge1", trial("a", rouge1__v1__score=a), trial("b", rouge1__v1__score=list(a)))
    assert (line["estimate"], line["low"], line["high"]) == (0, 0, 0)
    assert (line["method"], line["verdict"], line["ties"]) == ("no variation", None, ROWS)


@pytest.mark.parametrize(("differ", "verdict"), [(5, None), (6, "better")])
def test_a_verdict_needs_six_rows_that_differ(differ: int, verdict: str | None):
    a = np.zeros(100)
    b = np.where(np.arange(100) < differ, 1.0, 0.0)
    line = compared("rouge1", trial("a", rouge1__v1__score=a), trial("b", rouge1__v1__score=b))
    assert line["low"] > 0  # the interval alone would say better
    assert line["verdict"] == verdict
    assert line["note"] == (None if verdict else "no verdict: 5 rows differ, at least 6 must")


@pytest.mark.parametrize(("rows", "verdict"), [(9, None), (10, "better")])
def test_a_verdict_needs_ten_rows(rows: int, verdict: str | None):
    a = np.random.default_rng(12).uniform(0, 0.1, rows)
    line = compared("rouge1", trial("a", rouge1__v1__score=a), trial("b", rouge1__v1__score=a + a + 0.5))
    assert line["verdict"] == verdict
    assert ("no verdict of fewer than 10 rows" in line["note"]) == (verdict is None)


def test_what_only_rounding_sets_apart_is_a_tie():
    a = np.array(scored(np.random.default_rng(11)))
    b = (a + 0.1) - 0.1
    assert (a != b).any()
    line = compared("rouge1", trial("a", rouge1__v1__score=a), trial("b", rouge1__v1__score=b))
    assert (line["low"], line["high"], line["verdict"]) == (0, 0, None)
    assert (line["wins"], line["ties"], line["losses"]) == (0, ROWS, 0)


def perplexities(name: str, nll, tokens, bits=None) -> Trial:
    return trial(
        name,
        {"perplexity": math.exp(np.sum(nll) / np.sum(tokens))},
        perplexity__v1__score=np.exp(np.divide(nll, tokens)),
        perplexity__v1__tokens=tokens,
        perplexity__v1__bits_per_byte=np.ones(len(tokens)) if bits is None else bits,
    )


def test_perplexities_of_the_same_tokens_are_compared_by_their_ratio():
    rng = np.random.default_rng(6)
    tokens = rng.integers(5, 300, ROWS)
    nll = rng.gamma(5, 0.4, ROWS) * tokens
    worse = nll * rng.uniform(1.01, 1.05, ROWS)
    line = compared("perplexity", perplexities("a", nll, tokens), perplexities("b", worse, tokens))

    def ratio(rows):
        return math.exp((worse[rows].sum() - nll[rows].sum()) / tokens[rows].sum())

    # Of row numbers, so that no code is shared; intervals of the logarithm are those of the ratio for percentiles only
    # up to the correction's rounding, hence the logarithm here.
    expected = stats.bootstrap(
        (np.arange(ROWS),),
        lambda rows: math.log(ratio(rows)),
        vectorized=False,
        n_resamples=1000,
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert line["kind"] == "ratio of perplexities"
    assert line["estimate"] == pytest.approx(ratio(np.arange(ROWS)))
    assert (line["low"], line["high"]) == pytest.approx(np.exp(expected))
    assert line["baseline_value"] == pytest.approx(math.exp(nll.sum() / tokens.sum()))
    assert (line["verdict"], line["losses"]) == ("worse", ROWS)


def test_perplexities_of_other_tokens_give_way_to_bits_per_byte():
    rng = np.random.default_rng(7)
    size = rng.integers(50, 900, ROWS)
    few, many = size // 5, size // 3
    a, b = rng.uniform(0.6, 1.2, ROWS) * size, rng.uniform(0.5, 1.1, ROWS) * size  # nats
    first = perplexities("a", a, few, a / math.log(2) / size)
    second = perplexities("b", b, many, b / math.log(2) / size)
    line = compared("perplexity", first, second)
    expected = (b.sum() - a.sum()) / math.log(2) / size.sum()
    assert line["kind"] == "difference of bits per byte"
    assert line["estimate"] == pytest.approx(expected)
    assert line["low"] < expected < line["high"]
    better = int((b / size < a / size).sum())  # perplexities of a token would count other rows
    assert (line["wins"], line["losses"]) == (better, ROWS - better)
    assert better != int((b / many < a / few).sum())
    assert line["note"] == "other tokens than the baseline's, so perplexities do not compare"


def test_figures_of_the_whole_corpus_come_without_an_interval_beside_the_rows():
    rng = np.random.default_rng(8)
    a, b = (trial(name, {"bleu": x}, bleu__v1__score=scored(rng)) for name, x in (("a", 20.0), ("b", 26.5)))
    rows, corpus = differences_table([a, b], "a", measures("bleu"), OPTIONS).to_dict("records")
    assert (rows["kind"], corpus["kind"]) == ("difference of means", "difference of corpus")
    assert (corpus["estimate"], corpus["method"], corpus["verdict"]) == (6.5, None, None)
    assert corpus["note"].endswith("no interval")


WORDS = ["a", "loop", "repeats", "statements", "until", "its", "condition", "fails", "and", "then", "ends"]


def answered(name: str, outputs: list, targets: list, metric) -> Trial:
    """A trial as the evaluator would leave it: a missing output has no score."""
    scores = metric(outputs, targets)
    key = f"{metric.name}/v1"
    figures = {f"{key}/{figure}": value for figure, value in scores.aggregate_results.items()}
    figures |= {metric.name: scores.aggregate_results[metric.main], "rows": float(len(outputs))}
    rows = pd.DataFrame({"truth": targets, "outputs": outputs, f"{key}/score": scores.scores}, dtype=object)
    return Trial(
        name, Variant(model="models:/x/1"), "run", figures, rows,
        columns={"predictions": "outputs", "targets": "truth"},
    )  # fmt: skip


def sentences(rng) -> list[str]:
    return [" ".join(rng.choice(WORDS, 8)) for _ in range(ROWS)]


def test_corpus_figures_of_different_rows_are_computed_again_over_those_that_both_have():
    import sacrebleu

    rng, (metric,) = np.random.default_rng(13), metrics_of(["bleu"])
    targets = sentences(rng)
    outputs = [[text if rng.random() < share else sentences(rng)[0] for text in targets] for share in (0.3, 0.6)]
    gaps = [set(rng.choice(ROWS, 15, replace=False)) for _ in range(2)]
    trials = [
        answered(name, [None if i in gap else text for i, text in enumerate(texts)], targets, metric)
        for name, texts, gap in zip("ab", outputs, gaps, strict=True)
    ]
    line = differences_table(trials, "a", measures_of([metric]), OPTIONS).iloc[1]
    both = [i for i in range(ROWS) if i not in gaps[0] | gaps[1]]
    expected = [
        sacrebleu.corpus_bleu([texts[i] for i in both], [[targets[i] for i in both]], force=True).score
        for texts in outputs
    ]
    assert (line["baseline_value"], line["variant_value"]) == pytest.approx(expected)
    assert line["baseline_value"] != pytest.approx(trials[0].figures["bleu"])
    assert (line["kind"], line["n"], line["dropped"]) == ("difference of corpus", len(both), ROWS - len(both))
    assert line["note"].startswith("computed again of the rows that both have; ")
    table = summary_table(trials, "a", measures_of([metric])).set_index("variant")
    assert list(table["bleu"]) == [each.figures["bleu"] for each in trials]
    assert list(table["bleu/count"]) == [45, 45]


def test_figures_of_different_rows_that_cannot_be_computed_again_have_no_difference():
    metric = make_metric(
        eval_fn=lambda predictions: MetricValue(aggregate_results={"x": 1.0}), name="mine", greater_is_better=True
    )
    trials = [
        Trial(name, Variant(model=str), "run", {"mine": figure}, pd.DataFrame({"error": errors}, dtype=object))
        for name, figure, errors in (("a", 1.0, [None, "no"]), ("b", 4.0, [None, None]))
    ]
    line = only(differences_table(trials, "a", measures_of([metric]), OPTIONS))
    assert math.isnan(line["estimate"])
    assert (line["n"], line["dropped"]) == (1, 1)
    assert line["note"] == (
        "the variants have scores in other rows, and the figure cannot be computed again: no difference"
    )


def test_a_judge_is_not_asked_again_for_other_rows():
    asked = []
    judge = LLMMetric(
        lambda predictions: asked.append(1), "verdict", greater_is_better=True, main="good",
        metric_metadata={"judge": {"model": "models:/judge/1"}},
    )  # fmt: skip
    table = pd.DataFrame({"outputs": ["x", None], "verdict/v1/score": ["good", None]}, dtype=object)
    of = {"predictions": "outputs"}
    trials = [
        Trial("a", Variant(model=str), "r", {"verdict": 1.0}, table, columns=of),
        Trial("b", Variant(model=str), "r", {"verdict": 0.5}, table.fillna("bad"), columns=of),
    ]
    line = only(differences_table(trials, "a", measures_of([judge]), OPTIONS))
    assert math.isnan(line["estimate"])
    assert (line["n"], asked) == (1, [])


def test_a_metric_from_outside_without_scores_has_its_figure_only():
    metric = make_metric(
        eval_fn=lambda predictions: MetricValue(aggregate_results={"x": 1.0}), name="mine", greater_is_better=True
    )
    trials = [trial("a", {"mine": 1.0}, other=[1]), trial("b", {"mine": 4.0}, other=[1])]
    line = only(differences_table(trials, "a", measures_of([metric]), OPTIONS))
    assert (line["metric"], line["estimate"], line["n"]) == ("mine", 3.0, 1)


def test_latencies_and_lengths_of_all_rows_are_compared_too():
    rng = np.random.default_rng(9)
    trials = [
        trial(name, loaded_latency=scored(rng, low, low + 1), completion_tokens=list(rng.integers(5, 50, ROWS)))
        for name, low in (("a", 5), ("b", 1))
    ]
    latency, tokens = differences_table(trials, "a", measures_of([]), OPTIONS).to_dict("records")
    assert (latency["metric"], latency["verdict"], latency["wins"]) == ("loaded_latency", None, ROWS)
    assert latency["note"] == (
        "no verdict: measured once a variant, not repeated: resampled rows do not show that a machine was slower "
        "meanwhile"
    )
    assert (tokens["metric"], tokens["verdict"], tokens["note"]) == ("completion_tokens", None, None)


def test_without_the_baselines_rows_there_are_no_differences_but_columns():
    trials = [trial("a", error="gone"), trial("b", rouge1__v1__score=[1, 2])]
    table = differences_table(trials, "a", measures("rouge1"), OPTIONS)
    assert len(table) == 0
    assert {"metric", "estimate", "low", "high", "note"} <= set(table.columns)


def test_a_failed_variant_is_left_out_of_differences_and_keeps_its_line_in_the_summary():
    trials = [
        trial("a", {"rows": 2.0, "rouge1": 0.5}, rouge1__v1__score=[0.4, 0.6]),
        trial("b", error="the disk is full"),
        trial("c", {"rows": 2.0, "rouge1": 0.7}, rouge1__v1__score=[0.6, 0.8]),
    ]
    differences = differences_table(trials, "a", measures("rouge1"), OPTIONS)
    assert list(differences["variant"]) == ["c"]
    table = summary_table(trials, "a", measures("rouge1")).set_index("variant")
    assert table.loc["b", "error"] == "the disk is full"
    assert table.loc["c", "rouge1"] == 0.7
    assert list(table["is_baseline"]) == [True, False, False]
    assert "latency" not in table.columns  # nobody has one


def test_scores_have_a_line_for_each_group_with_the_mean_of_its_rows():
    rng = np.random.default_rng(10)
    cells = scored(rng)
    cells[0] = None
    groups = ["mbpp" if i % 3 else "alpaca" for i in range(ROWS)]
    table = scores_table([trial("a", rouge1__v1__score=cells)], measures("rouge1"), groups, OPTIONS)
    assert list(table["group"]) == ["alpaca", "mbpp"]
    for line in table.to_dict("records"):
        own = np.array([x for x, group in zip(cells, groups, strict=True) if group == line["group"] and x is not None])
        expected = stats.bootstrap((own,), np.mean, n_resamples=1000, rng=np.random.default_rng(0)).confidence_interval
        assert (line["n"], line["value"]) == (len(own), pytest.approx(own.mean()))
        assert (line["low"], line["high"]) == pytest.approx(expected)


def test_the_score_of_perplexity_weighs_rows_by_their_tokens():
    nll, tokens = np.array([10.0, 900.0, 30.0]), np.array([10, 300, 20])
    line = only(scores_table([perplexities("a", nll, tokens)], measures("perplexity"), None, OPTIONS))
    assert line["value"] == pytest.approx(math.exp(940 / 330))
    assert (line["statistic"], line["n"]) == ("over tokens", 3)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["latency", "ari_grade_level", "rougeL", "chrf"], "rougeL"),
        (["latency", "ari_grade_level", "word_count"], "ari_grade_level"),
        (["latency"], None),
        (["latency", "word_count"], None),
    ],
)
def test_quality_is_the_first_metric_against_targets_or_else_the_first(names: list[str], expected: str | None):
    chosen = main_quality(measures(*names))
    assert (chosen and chosen.name) == expected
