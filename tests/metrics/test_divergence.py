"""Divergence: llama.cpp's figures, from float64, in bounded memory, and only where tokens are the same."""

from __future__ import annotations

import copy
import json
import math
import tracemalloc
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, rel_entr, softmax

from mlflow_llm_plugins.errors import GenerationError, InvalidInputError
from mlflow_llm_plugins.generation import EngineSettings, open_engine
from mlflow_llm_plugins.metrics.likelihood.distributions import compare, side_by_side
from mlflow_llm_plugins.metrics.likelihood.divergence import divergence
from mlflow_llm_plugins.metrics.likelihood.perplexity import perplexity
from mlflow_llm_plugins.metrics.likelihood.windows import Windows
from tests.metrics.context_engine import ContextEngine, starting_tokenizer
from tests.models import FIRST_BYTE_ID, byte_tokenizer, random_model

BASE = ContextEngine()
TESTED = ContextEngine(noise=0.3, slice_size=5)  # slices that end elsewhere
TEXTS = ["A loop repeats statements.", "Kurz.", "Ein Würfel fällt, und niemand weiß, wohin er rollt. " * 3]


def figures(scores):
    return dict(scores.aggregate_results)


def logits_of(engine, text, context_length=64, stride=32):
    """[tokens - 1, vocabulary] float64, each place read in its window, and the tokens there."""
    ids = engine.tokenizer(text).input_ids
    rows = [
        engine.after(ids[window.start : window.end])[window.first - window.start - 1 : -1]
        for window in Windows(context_length, stride).of(len(ids))
    ]
    return np.concatenate(rows).astype(np.float64), np.array(ids[1:])


def independent(base, tested, targets):
    """NLL of both, divergence and agreement of each place, by scipy."""
    places = np.arange(len(targets))
    nll_base, nll = (-log_softmax(logits, axis=1)[places, targets] for logits in (base, tested))
    kl = rel_entr(softmax(base, axis=1), softmax(tested, axis=1)).sum(1)
    return nll_base, nll, kl, base.argmax(1) == tested.argmax(1)


def every_place(one=BASE, other=TESTED):
    rows = [independent(logits_of(one, text)[0], *logits_of(other, text)) for text in TEXTS]
    return rows, [np.concatenate(column) for column in zip(*rows, strict=True)]


def llama_cpp_percentile(values, fraction):
    values = sorted(values)
    if fraction >= 1:
        return values[-1]
    place = fraction * (len(values) - 1)
    whole = int(place)
    return (1 - place + whole) * values[whole] + (place - whole) * values[min(whole + 1, len(values) - 1)]


def llama_cpp_error(values):
    count, total, squares = len(values), sum(values), sum(value * value for value in values)
    return math.sqrt((squares / count - (total / count) ** 2) / (count - 1))


def test_the_figures_are_those_of_llama_cpp_over_all_tokens():
    _, (nll_base, nll, kl, same) = every_place()
    found = figures(divergence(BASE, TESTED, context_length=64)(TEXTS))
    n = len(kl)
    covariance = np.mean(nll * nll_base) - nll.mean() * nll_base.mean()
    log_error = math.sqrt(llama_cpp_error(nll) ** 2 + llama_cpp_error(nll_base) ** 2 - 2 * covariance / (n - 1))
    change = np.exp(-nll) - np.exp(-nll_base)
    rms = math.sqrt(np.mean(change**2))
    expected = {
        "perplexity_model": math.exp(nll.mean()),
        "perplexity_model_standard_error": math.exp(nll.mean()) * llama_cpp_error(nll),
        "perplexity_baseline": math.exp(nll_base.mean()),
        "perplexity_baseline_standard_error": math.exp(nll_base.mean()) * llama_cpp_error(nll_base),
        "perplexity_ratio": math.exp(nll.mean() - nll_base.mean()),
        "perplexity_ratio_standard_error": math.exp(nll.mean() - nll_base.mean()) * log_error,
        "log_ratio": nll.mean() - nll_base.mean(),
        "log_ratio_standard_error": log_error,
        "kl_divergence_mean": kl.mean(),
        "kl_divergence_mean_standard_error": llama_cpp_error(kl),
        "top1_agreement": same.mean(),
        "top1_agreement_standard_error": math.sqrt(same.mean() * (1 - same.mean()) / (n - 1)),
        "delta_p_mean": change.mean(),
        "delta_p_mean_standard_error": llama_cpp_error(change),
        "delta_p_rms": rms,
        "delta_p_rms_standard_error": 0.5 / rms * llama_cpp_error(change**2),
        "tokens": n,
        "count": 3,
        "context_length": 64,
        "stride": 32,
    }
    for name, values in (("kl_divergence", kl), ("delta_p", change)):
        shares = {"p99.9": 0.999, "p99": 0.99, "p95": 0.95, "p90": 0.9, "p10": 0.1, "p5": 0.05, "p1": 0.01}
        shares |= {"median": 0.5, "p0.1": 0.001, "max": 1.0, "min": 0.0}
        expected |= {f"{name}_{suffix}": llama_cpp_percentile(values, share) for suffix, share in shares.items()}
    assert found == pytest.approx(expected, rel=1e-7, abs=1e-12)
    assert 0.05 < found["top1_agreement"] < 0.95


def test_a_row_has_the_mean_of_its_tokens_and_its_own_figures():
    rows, _ = every_place()
    scores = divergence(BASE, TESTED, context_length=64)(TEXTS)
    assert scores.scores == pytest.approx([kl.mean() for _, _, kl, _ in rows])
    assert scores.columns["tokens"] == [len(kl) for _, _, kl, _ in rows]
    assert scores.columns["kl_divergence_max"] == pytest.approx([kl.max() for _, _, kl, _ in rows])
    assert scores.columns["top1_agreement"] == pytest.approx([same.mean() for *_, same in rows])
    assert scores.columns["perplexity_ratio"] == pytest.approx([math.exp((q - p).mean()) for p, q, *_ in rows])


def test_the_baseline_weighs_the_logarithms():
    base, tested = np.log([[0.9, 0.1]]).astype(np.float32), np.log([[0.5, 0.5]]).astype(np.float32)
    forward, backward = compare([base], [tested], [1]), compare([tested], [base], [1])
    assert forward.divergence[0] == pytest.approx(0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5), rel=1e-6)
    assert backward.divergence[0] == pytest.approx(0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1), rel=1e-6)
    assert (forward.nll_baseline[0], forward.nll_model[0]) == pytest.approx((-math.log(0.1), -math.log(0.5)))


def test_a_model_differs_from_itself_in_nothing():
    found = figures(divergence(BASE, BASE)(TEXTS))
    zeros = {name for name in found if name.startswith(("kl_divergence", "delta_p", "log_ratio"))}
    assert {found[name] for name in zeros} == {0.0}
    assert len(zeros) == 30
    assert (found["perplexity_ratio"], found["top1_agreement"]) == (1, 1)
    assert found["perplexity_model"] == found["perplexity_baseline"]
    assert found["perplexity_model"] == pytest.approx(
        figures(perplexity(BASE, context_length=64)(TEXTS))["perplexity"], rel=1e-9
    )


cuts = st.lists(st.integers(1, 9), max_size=8)


@given(one=cuts, other=cuts)
def test_slices_that_end_elsewhere_are_read_side_by_side(one, other):
    rows = np.arange(min(sum(one), sum(other)))[:, None]
    slices = [
        np.split(rows, np.cumsum(sizes)[np.cumsum(sizes) < len(rows)]) if len(rows) else [] for sizes in (one, other)
    ]
    pairs = list(side_by_side(*(iter(own) for own in slices)))
    assert all(np.array_equal(left, right) for left, right in pairs)
    assert [row for left, _ in pairs for row in left[:, 0]] == rows[:, 0].tolist()


def test_the_next_slice_is_asked_for_when_the_last_one_was_read():
    asked = []

    def slices(name, *sizes):
        for size in sizes:
            asked.append(f"{name}{size}")
            yield np.zeros((size, 2), np.float32)
            asked.append(f"{name} read")

    for left, _ in side_by_side(slices("a", 4, 1), slices("b", 2, 3)):
        asked.append(len(left))
    assert asked == ["a4", "b2", 2, "b read", "b3", 2, "a read", "a1", 1, "a read", "b read"]


def test_a_slice_is_let_go_before_the_next_one_is_computed():
    kept = []

    def slices(*sizes):
        for size in sizes:
            part = np.zeros((size, 4), np.float32)
            before = weakref.ref(part)
            yield part
            del part
            kept.append(before() is not None)

    compare(slices(4, 4, 2), slices(2, 6, 2), [0] * 10)
    assert kept == [False] * 6


def test_small_differences_are_not_lost_in_rounding():
    generator = np.random.default_rng(3)
    base = generator.normal(size=(20, 5000), scale=4).astype(np.float32)
    tested = base + generator.normal(size=base.shape, scale=1e-3).astype(np.float32)
    p, q = (log_softmax(logits.astype(np.longdouble), axis=1) for logits in (base, tested))
    expected = (np.exp(p) * (p - q)).sum(1).astype(np.float64)
    found = compare([base], [tested], [0] * 20).divergence
    assert 1e-8 < expected.min() < expected.max() < 1e-5
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_tokens_that_both_models_exclude_count_nothing_and_one_that_only_one_excludes_makes_it_infinite():
    generator = np.random.default_rng(1)
    base, tested = generator.normal(size=(2, 3, 50)).astype(np.float32)
    expected = compare([base], [tested], [0, 1, 2])
    masked = [np.pad(logits, ((0, 0), (0, 6)), constant_values=-np.inf) for logits in (base, tested)]
    found = compare([masked[0]], [masked[1]], [0, 1, 2])
    np.testing.assert_allclose(found.divergence, expected.divergence, rtol=1e-12)
    assert found.flaw is None
    tested[1, 7] = -np.inf
    excluded = compare([base], [tested], [0, 1, 2])
    assert excluded.divergence[1] == math.inf
    assert excluded.flaw is not None
    masked[1][1, 7] = -np.inf
    assert compare([masked[0]], [masked[1]], [0, 1, 2]).divergence[1] == math.inf


def test_a_vocabulary_of_128k_needs_little_memory_beside_the_slices():
    base, tested = np.random.default_rng(0).normal(size=(2, 16, 128_256)).astype(np.float32)
    tracemalloc.start()
    try:
        compare([base], [tested], list(range(16)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 12 * 2**20  # float64 copies of all 16 rows would be 31 MB each


@pytest.mark.parametrize("places", [3, 5])
def test_another_number_of_places_than_tokens_is_an_error(places):
    logits = np.zeros((places, 8), np.float32)
    with pytest.raises(GenerationError, match=rf"^An engine gave logits for {places} places, 4 were asked for\.$"):
        compare([logits], [logits], [0] * 4)


def test_rows_without_a_score_have_a_reason_and_leave_the_others_alone():
    vocabulary = FIRST_BYTE_ID + 100
    narrow = ContextEngine(vocabulary=vocabulary), ContextEngine(vocabulary=vocabulary, noise=0.3)
    high = "€"
    unknown = max(narrow[0].tokenizer(high).input_ids)
    scores = divergence(*narrow)(["ab", None, 7, "x", f"ab{high}", "cd"])
    assert [row for row, score in enumerate(scores.scores) if not math.isnan(score)] == [0, 5]
    assert scores.justifications == [
        None,
        "the prediction is missing",
        "the prediction is of type int, not text",
        "the prediction has 1 of the at least 2 tokens that a score needs",
        f"a model refuses it: Token id {unknown} is outside the model's vocabulary of {vocabulary}.",
        None,
    ]
    assert figures(scores) == figures(divergence(*narrow)(["ab", "cd"]))
    assert figures(divergence(BASE, TESTED)([None])) == {"count": 0}


def test_logits_that_are_no_numbers_cost_their_row_alone():
    class Odd(ContextEngine):
        def after(self, ids):
            rows = super().after(ids)
            return rows * np.nan if len(ids) == 4 else rows

    scores = divergence(BASE, Odd())(["abc", "abcd"])
    assert scores.scores == pytest.approx([0, math.nan], nan_ok=True)
    assert scores.justifications == [None, "a model gave logits that are no numbers"]
    assert figures(scores) == figures(divergence(BASE, BASE)(["abc"]))


class Masking(ContextEngine):
    """Excludes a token, in texts of four."""

    excluded = FIRST_BYTE_ID

    def after(self, ids):
        rows = super().after(ids)
        rows[:, self.excluded] = -np.inf if len(ids) == 4 else rows[:, self.excluded]
        return rows


def test_an_infinite_divergence_says_what_made_it_so():
    scores = divergence(BASE, Masking())(["abc", "abcd"])
    assert scores.justifications == [
        None,
        "the model gives the probability 0 to a token that the baseline gives more: infinite divergence",
    ]
    assert figures(scores)["tokens"] == 2
    assert divergence(Masking(), BASE)(["abc", "abcd"]).justifications is None
    in_text = Masking()
    in_text.excluded = byte_tokenizer()("d").input_ids[0]
    for pair in ((BASE, in_text), (in_text, BASE)):
        assert divergence(*pair)(["abcd"]).justifications == ["a model gives a token of the text the probability 0"]


def test_a_perplexity_beyond_floats_costs_its_row_alone():
    class Loud(ContextEngine):
        def after(self, ids):
            return super().after(ids) * (1e4 if len(ids) == 4 else 1)

    for pair in ((BASE, Loud()), (Loud(), BASE)):
        scores = divergence(*pair)(["abc", "abcd", "ab"])
        why = "a model's perplexity is beyond the numbers that a float can hold"
        assert scores.justifications == [None, why, None]
        assert figures(scores) == figures(divergence(BASE, BASE)(["abc", "ab"]))


def test_rounding_makes_no_divergence_below_0():
    base = np.random.default_rng(0).normal(size=(200, 1000)).astype(np.float32)
    tested = base.copy()
    tested[:, 5] += 1e-6
    found = compare([base], [tested], [0] * 200).divergence
    assert found.min() == 0
    assert found.max() < 1e-9


def test_a_model_that_refuses_when_a_slice_is_asked_for_costs_its_row_alone():
    class Late(ContextEngine):
        def logits(self, token_ids, first=1):
            yield from super().logits(token_ids, first)

    narrow = Late(vocabulary=FIRST_BYTE_ID + 100)
    scores = divergence(narrow, narrow)(["ab", "ab€", "cd"])
    assert scores.scores == pytest.approx([0, math.nan, 0], nan_ok=True)
    assert scores.justifications[1].startswith("a model refuses it: Token id ")


def test_what_only_one_model_can_tokenise_costs_its_row_alone():
    class Fragile:
        def __init__(self):
            self._tokenizer = byte_tokenizer()

        def __call__(self, text, **options):
            if text == "abc":
                raise OverflowError
            return self._tokenizer(text, **options)

    for pair in ((BASE, ContextEngine(Fragile())), (ContextEngine(Fragile()), BASE)):
        scores = divergence(*pair)(["ab", "abc"])
        assert scores.scores == pytest.approx([0, math.nan], nan_ok=True)
        assert scores.justifications == [None, "the prediction cannot be tokenised (OverflowError)"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            ContextEngine(starting_tokenizer()),
            'but of "Is 22/7 > 3.14159? Yes, by 0.0013; it\'s 100% so." token 0 is ',
        ),
        (ContextEngine(vocabulary=330), "the baseline gives 320 logits a place and the model 330"),
        (ContextEngine(context=32), "divergence(context_length=33) is longer than the model's context of 32."),
        (None, "divergence has no model to ask."),
    ],
    ids=["tokens", "vocabulary", "context", "no model"],
)
def test_models_that_can_never_be_compared_are_refused_before_the_rows_are_there(other, message):
    metric = divergence(BASE, context_length=33)
    with pytest.raises(InvalidInputError) as error:
        metric.prepare(other)
    assert message in str(error.value)
    metric.prepare(TESTED)


def test_a_tokenizer_of_another_script_is_found_out_beforehand():
    from tokenizers import normalizers

    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
    with pytest.raises(InvalidInputError, match="make the same tokens of every text, but of '🙂"):
        divergence(BASE).prepare(ContextEngine(tokenizer))


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (
            lambda: divergence(BASE, ContextEngine(starting_tokenizer()))([None, "ab"]),
            'divergence: baseline and model must make the same tokens of every text, but of "Is 22/7 > 3.14159? Yes, '
            "by 0.0013; it's 100% so.\" token 0 is {i} for the baseline and 2 for the model. Compare bits_per_byte of "
            "perplexity() instead.",
        ),
        (
            lambda: divergence(BASE, ContextEngine(merging_tokenizer("Q", "Qb")))(["ab", "Q"]),
            "divergence: baseline and model must make the same tokens of every text, but in row 1 token 1 is missing "
            "for the baseline and {b} for the model. Compare bits_per_byte of perplexity() instead.",
        ),
        (
            lambda: divergence(BASE, ContextEngine(merging_tokenizer()))(["ab", "xab"]),
            "divergence: baseline and model must make the same tokens of every text, but in row 1 token 2 is {b} for "
            "the baseline and missing for the model. Compare bits_per_byte of perplexity() instead.",
        ),
        (
            lambda: divergence(BASE, ContextEngine(vocabulary=330))(["ab"]),
            "divergence: the baseline gives 320 logits a place and the model 330; only models with the same "
            "vocabulary can be compared. Give both the same embedding size.",
        ),
        (
            lambda: divergence(BASE)(["ab"]),
            "divergence has no model to ask. Give divergence(model=...) one of the flavor quantized_llm, or evaluate "
            "such a model with evaluators='llm'.",
        ),
        (
            lambda: divergence(None, BASE)(["ab"]),
            "divergence(baseline=...) needs a model whose probabilities can be read: one of the flavor quantized_llm, "
            "by its URI or loaded in this process, got NoneType.",
        ),
        (
            lambda: divergence(BASE, ContextEngine(context=32), context_length=33)(["ab"]),
            "divergence(context_length=33) is longer than the model's context of 32. Give at most 32, or None.",
        ),
        (
            lambda: divergence(BASE, texts="prediction"),
            "divergence(texts=...) must be one of 'predictions', 'targets', 'inputs' or None, got 'prediction'. Did "
            "you mean 'predictions'?",
        ),
        (lambda: divergence(BASE, stride=0), "divergence(stride=...) must be a whole number from 1, got 0."),
    ],
)
def test_what_cannot_be_compared_is_refused_with_what_to_do(score, message):
    ids = {letter: byte_tokenizer()(letter).input_ids[0] for letter in "abI"}
    with pytest.raises(InvalidInputError) as error:
        score()
    assert str(error.value) == message.format(i=ids["I"], **ids)


def merging_tokenizer(text="xab", read="xa"):
    """Reads one text as another, which the byte tokenizer does not."""
    from tokenizers import normalizers

    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(text, read)
    return tokenizer


def test_the_evaluated_model_is_compared_where_no_other_was_given():
    given = divergence(BASE)(targets=TEXTS, predictions=["x"] * 3, engine=TESTED)
    assert given.scores == divergence(BASE, TESTED)(TEXTS).scores
    assert divergence(BASE, texts="inputs")(inputs=TEXTS, engine=TESTED).scores == given.scores


def test_the_metric_says_how_it_was_computed():
    metric = divergence("models:/chat/1", stride=100, name="nf4")
    assert (metric.name, metric.main, metric.greater_is_better) == ("nf4", "kl_divergence_mean", False)
    assert json.loads(json.dumps(metric.metric_metadata)) == {
        "context_length": "512, or the model's context where that is shorter",
        "stride": 100,
        "texts": "targets, or predictions where there are none",
        "start_token": "at the start of each text, where the tokenizer adds one; later windows begin with text",
        "baseline": "models:/chat/1",
        "model": None,
    }


@pytest.fixture(scope="module")
def real():
    """A model and its copy in bfloat16, each with an engine."""
    models = [random_model("llama"), random_model("llama").to(torch.bfloat16)]
    engines = [open_engine(copy.deepcopy(m), byte_tokenizer(), EngineSettings(), "generate") for m in models]
    yield models, engines
    for engine in engines:
        engine.close()


@torch.no_grad()
def plain_places(models, ids, windows):
    """NLL, divergence and agreement of each place, in float64 from the float32 logits of plain forward passes."""
    rows = []
    for window in windows.of(len(ids)):
        own, first = ids[window.start : window.end], window.first - window.start
        logits = [model(torch.tensor([own])).logits[0, first - 1 : -1].float().double().numpy() for model in models]
        rows.append(independent(*logits, np.array(own[first:])))
    return [np.concatenate(column) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize(("context_length", "stride"), [(256, 128), (100, 100)])
def test_16_bit_weights_diverge_as_a_float64_reduction_of_the_same_logits_says(real, context_length, stride):
    models, engines = real
    text = "Rounding changes probabilities a little, and seldom the order of the best. " * 8
    metric = divergence(*engines, context_length=context_length, stride=stride)
    windows = Windows(context_length, stride)
    nll_base, nll, kl, same = plain_places(models, engines[0].tokenizer(text).input_ids, windows)
    found = figures(metric([text]))
    expected = {
        "perplexity_baseline": math.exp(nll_base.mean()),
        "perplexity_model": math.exp(nll.mean()),
        "kl_divergence_mean": kl.mean(),
        "kl_divergence_max": kl.max(),
        "top1_agreement": same.mean(),
        "tokens": len(text) - 1,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert 1e-6 < kl.mean() < 0.1
