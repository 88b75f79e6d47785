"""Sampling against transformers' own processors, and the draws against their probabilities."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from mlflow_llm_plugins.errors import GenerationError
from mlflow_llm_plugins.generation import GenerationRequest
from mlflow_llm_plugins.generation.admission import AdmittedRequest
from mlflow_llm_plugins.generation.sampling.plan import SamplingPlan, pick
from mlflow_llm_plugins.generation.sampling.rows import argmax, top

WIDE = 40_000  # columns from which rows are looked at in blocks


def plan(temperature=1.0, top_k=None, top_p=None, min_p=None, seed=0, prompt=(1, 2), end=(), **options):
    request = GenerationRequest(
        prompt, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed, **options
    )
    return SamplingPlan.of(AdmittedRequest(request, list(prompt), 64, frozenset(end), 60.0))


def logprobs(of):
    return [one.logprob for one in of.picks]


def processed(of, logits):
    scores = logits.clone()
    of.process(scores)
    return scores


def random_logits(rows, vocab, seed=0, spread=1.0):
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * spread


def reference_probabilities(logits, options):
    """What transformers would draw from: [vocab] probabilities, float64."""
    warpers = LogitsProcessorList([TemperatureLogitsWarper(options.temperature)])
    if options.top_k:
        warpers.append(TopKLogitsWarper(options.top_k))
    if options.top_p is not None and options.top_p < 1:
        warpers.append(TopPLogitsWarper(options.top_p))
    if options.min_p:
        warpers.append(MinPLogitsWarper(options.min_p))
    return warpers(None, logits[None].clone())[0].double().softmax(-1)


options_strategy = st.builds(
    plan,
    temperature=st.floats(0.05, 5.0),
    top_k=st.none() | st.integers(0, 400),
    top_p=st.none() | st.floats(0.01, 1.0),
    min_p=st.none() | st.floats(0.0, 1.0),
    seed=st.integers(0, 2**63 - 1),
)


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(options_strategy, min_size=1, max_size=4),
    vocab=st.sampled_from([5, 300, 500]),
    spread=st.floats(0.1, 8.0),
    seed=st.integers(0, 1000),
)
def test_a_draw_is_the_inverse_of_transformers_distribution(rows, vocab, spread, seed):
    """The picked token's probability is above zero there, and its interval holds the uniform number."""
    logits = random_logits(len(rows), vocab, seed, spread)
    uniforms = [row.uniform() for row in rows]
    tokens = pick(logits, rows).tolist()
    for row, options, uniform, token in zip(logits, rows, uniforms, tokens, strict=True):
        expected = reference_probabilities(row, options)
        cumulative = expected.cumsum(0)
        below = cumulative[token - 1].item() if token else 0.0
        assert expected[token] > 0
        assert below - 1e-5 <= uniform <= cumulative[token].item() + 1e-5


@pytest.mark.parametrize("top_k", [300, 301, 10**6])
def test_a_top_k_of_the_whole_vocabulary_keeps_what_top_p_alone_would(top_k):
    logits = random_logits(1, 300)
    for seed in range(50):
        assert pick(logits, [plan(top_k=top_k, top_p=0.5, seed=seed)]) == pick(logits, [plan(top_p=0.5, seed=seed)])


@pytest.mark.parametrize(
    "options",
    [plan(), plan(0.7, top_k=3), plan(1.5, top_p=0.8), plan(top_k=40, top_p=0.9, min_p=0.05), plan(min_p=0.3)],
)
def test_frequencies_of_many_draws_follow_the_distribution(options):
    logits = torch.randn(50, generator=torch.Generator().manual_seed(1)) * 2
    draws = 4000
    plans = [plan(options.temperature, options.top_k, options.top_p, options.min_p, s) for s in range(draws)]
    counts = torch.bincount(pick(logits.expand(draws, -1), plans), minlength=50).double()
    expected = reference_probabilities(logits, options)
    assert counts[expected == 0].sum() == 0
    deviation = (counts / draws - expected).abs()
    assert (deviation <= 5 * (expected * (1 - expected) / draws).sqrt() + 1e-9).all()


@given(seed=st.integers(0, 2**63 - 1), others=st.lists(options_strategy, max_size=3))
@settings(max_examples=50, deadline=None)
def test_the_same_seed_draws_the_same_tokens_alone_and_in_company(seed, others):
    logits = torch.randn(1 + len(others), 700, generator=torch.Generator().manual_seed(3))
    alone, together = plan(1.2, top_p=0.9, seed=seed), plan(1.2, top_p=0.9, seed=seed)
    for _ in range(5):
        assert pick(logits[:1], [alone]).item() == pick(logits, [together, *others])[0].item()


def test_a_neighbour_that_looks_further_changes_nothing_even_where_logits_are_equal():
    logits = (torch.randn(2, 1000, generator=torch.Generator().manual_seed(5)) * 4).round() / 4  # many ties
    for seed in range(200):
        alone = pick(logits[:1], [plan(1.1, top_k=20, top_p=0.9, seed=seed)])
        together = pick(logits, [plan(1.1, top_k=20, top_p=0.9, seed=seed), plan(1.0, top_k=600)])
        assert alone[0] == together[0]


@pytest.mark.parametrize("options", [plan(1e-40), plan(1e-40, top_k=5), plan(1e-300, top_p=0.5)])
def test_the_smallest_temperatures_are_greedy_and_do_not_overflow(options):
    logits = torch.randn(1, 300, generator=torch.Generator().manual_seed(4)) * 10
    assert pick(logits, [options]).item() == logits.argmax().item()


def test_greedy_rows_take_the_best_token_beside_sampled_ones():
    logits = torch.randn(3, 90, generator=torch.Generator().manual_seed(2))
    tokens = pick(logits, [plan(0.0), plan(1.0), plan(0.0, top_k=5)])
    assert tokens[0] == logits[0].argmax()
    assert tokens[2] == logits[2].argmax()


def test_logprobs_are_those_of_the_raw_logits_whatever_the_sampling():
    logits = torch.randn(2, 90, generator=torch.Generator().manual_seed(2))
    plans = [plan(0.0, top_logprobs=0), plan(3.0, top_k=7, top_logprobs=0)]
    tokens = pick(logits, plans)
    for row in range(2):
        assert logprobs(plans[row]) == pytest.approx([logits[row].log_softmax(-1)[tokens[row]].item()], abs=1e-5)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_row_with_nan_or_infinite_logits_fails_alone(poison):
    logits = torch.randn(3, 40, generator=torch.Generator().manual_seed(0))
    logits[1, 7] = poison
    plans = [plan(seed=1), plan(seed=1), plan(seed=2)]
    tokens = pick(logits, plans)
    assert str(plans[1].error) == "The model produced NaN or infinite logits for this request."
    assert plans[0].error is plans[2].error is None
    assert tokens[0] == pick(logits[:1], [plan(seed=1)])[0]


def test_masked_out_tokens_of_minus_infinity_are_no_fault_and_never_drawn():
    logits = torch.zeros(200, 300)
    logits[:, 10:] = -math.inf
    plans = [plan(seed=s, top_p=None if s % 2 else 0.99) for s in range(200)]
    tokens = pick(logits, plans)
    assert tokens.max() < 10
    assert all(each.error is None for each in plans)


def test_a_nucleus_wider_than_the_first_candidates_is_complete():
    logits = torch.zeros(500, 3000)  # every token the same: the nucleus of 0.9 has 2,700 tokens
    tokens = pick(logits, [plan(top_p=0.9, seed=s) for s in range(500)])
    assert len(set(tokens.tolist())) > 400


def test_a_request_without_a_seed_draws_differently_each_time(open_model):
    _, engine = open_model("llama")
    from mlflow_llm_plugins.generation import GenerationRequest

    request = GenerationRequest([9, 10, 11], temperature=2.0, max_new_tokens=20, eos_token_ids=())
    assert len({engine.submit(request).result().token_ids for _ in range(3)}) > 1


def test_a_copied_plan_is_the_same_plan():
    original = plan()
    assert copy.deepcopy({"plan": original})["plan"] is original


@settings(max_examples=60, deadline=None)
@given(options=options_strategy, spread=st.floats(0.05, 12.0), seed=st.integers(0, 1000))
def test_on_wide_rows_only_tokens_that_transformers_would_keep_are_drawn(options, spread, seed):
    logits = random_logits(1, WIDE, seed, spread)
    token = pick(logits, [options]).item()
    expected = reference_probabilities(logits[0], options)
    floor = expected[expected > 0].min()
    assert logits[0].double().div(options.temperature).softmax(-1)[token] >= 0
    assert expected[token] > 0 or logits[0, token] >= logits[0][expected >= floor].min() - 1e-4  # rounding at the edge


@pytest.mark.parametrize(
    "options",
    [
        plan(0.7),
        plan(1.3, top_p=0.97),  # wide nuclei are drawn by repetition
        plan(1.0, top_p=0.4),
        plan(1.0, top_p=0.02),
        plan(2.0, top_p=0.8, min_p=0.2),
        plan(1.0, min_p=0.1),
        plan(1.0, top_k=700, top_p=0.9),
    ],
    ids=lambda options: f"p={options.top_p} k={options.top_k} min={options.min_p}",
)
def test_frequencies_on_wide_rows_follow_transformers_distribution(options):
    """By groups of tokens, since every single one is rare."""
    logits = random_logits(1, WIDE, 1, 1.2)
    draws = 3000
    plans = [plan(options.temperature, options.top_k, options.top_p, options.min_p, s) for s in range(draws)]
    tokens = torch.cat([pick(logits.expand(len(part), -1), part) for part in (plans[:1500], plans[1500:])])
    expected = reference_probabilities(logits[0], options)
    groups = torch.arange(WIDE) % 20
    wanted = torch.zeros(20, dtype=torch.double).index_add_(0, groups, expected)
    got = torch.bincount(groups[tokens], minlength=20).double() / draws
    assert ((got - wanted).abs() <= 5 * (wanted * (1 - wanted) / draws).sqrt() + 1e-9).all()
    assert expected[tokens].min() > 0


@pytest.mark.parametrize("options", [{"top_p": 0.9}, {"top_p": 0.02}, {"top_k": 3}, {}, {"min_p": 0.3}])
def test_on_wide_rows_the_same_seed_draws_the_same_tokens_alone_and_in_company(options):
    logits = random_logits(5, WIDE, 3)
    others = [plan(1.0, top_k=900), plan(0.0), plan(1.0, top_p=0.99), plan(2.0, min_p=0.01)]
    for seed in range(20):
        alone = pick(logits[:1], [plan(1.2, seed=seed, **options)])
        assert alone[0] == pick(logits, [plan(1.2, seed=seed, **options), *others])[0]


@given(width=st.sampled_from([7, 300, WIDE, WIDE + 1]), count=st.integers(1, 200), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_the_best_tokens_and_the_best_one_are_those_of_torch(width, count, seed):
    values = random_logits(3, width, seed)
    best, columns = top(values, count)
    assert torch.equal(best, values.topk(min(count, width)).values)
    assert torch.equal(values.gather(1, columns), best)
    assert torch.equal(argmax(values), values.argmax(-1))


HISTORY = (5, 6, 7, 5, 6, 8)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"repetition_penalty": 1.7}, RepetitionPenaltyLogitsProcessor(1.7)),
        ({"no_repeat_ngram_size": 2}, NoRepeatNGramLogitsProcessor(2)),
        ({"no_repeat_ngram_size": 3}, NoRepeatNGramLogitsProcessor(3)),
    ],
    ids=["repetition", "bigram", "trigram"],
)
def test_penalties_are_transformers_own_over_prompt_and_answer(options, expected):
    logits = random_logits(1, 40, 4, 3)
    of = plan(0.0, prompt=HISTORY[:2], top_logprobs=0, **options)
    for token in HISTORY[2:]:
        of.accept(token)
    wanted = expected(torch.tensor([HISTORY]), logits.clone())
    assert torch.equal(processed(of, logits[0]), wanted[0])
    assert pick(logits, [of]).item() == wanted.argmax().item()
    assert logprobs(of)[-1] == pytest.approx(logits.log_softmax(-1)[0, wanted.argmax()].item(), abs=1e-5)


def test_openai_penalties_count_the_answer_only():
    logits = random_logits(1, 40, 4)
    of = plan(0.0, prompt=(5, 5, 5), frequency_penalty=0.5, presence_penalty=-1.5)
    for token in (6, 7, 6):
        of.accept(token)
    expected = logits[0].clone()
    expected[6] -= 2 * 0.5 - 1.5
    expected[7] -= 0.5 - 1.5
    assert processed(of, logits[0]).tolist() == pytest.approx(expected.tolist())


def test_a_bias_moves_its_tokens_and_end_tokens_wait_for_the_minimum():
    logits = torch.zeros(1, 10)
    of = plan(0.0, logit_bias={3: 5.0, 4: 100.0}, min_new_tokens=2, end=(4,))
    assert pick(logits, [of]).item() == 3
    assert pick(logits, [of]).item() == 3
    assert pick(logits, [of]).item() == 4


def test_the_alternatives_are_the_best_raw_logprobs_whatever_is_picked():
    logits = random_logits(3, 300, 8, 2)
    plans = [plan(1.0, top_logprobs=4), plan(0.0), plan(0.0, top_logprobs=2, logit_bias={9: 100.0})]
    pick(logits, plans)
    assert plans[1].picks[0].logprob is None
    for row, count in ((0, 4), (2, 2)):
        best = logits[row].log_softmax(-1).topk(count)
        ids, values = zip(*plans[row].picks[0].top_logprobs, strict=True)
        assert list(ids) == best.indices.tolist()
        assert list(values) == pytest.approx(best.values.tolist(), abs=1e-5)
    assert plans[1].picks[0].top_logprobs == ()


def test_a_processor_may_write_into_what_it_gets_and_sees_the_whole_text():
    seen = []

    def write(input_ids, scores):
        seen.append(input_ids.tolist())
        scores[:, :5] = -torch.inf
        return scores

    logits = random_logits(1, 10)
    raw = logits.clone()
    of = plan(0.0, logits_processors=(write,), prompt=(1, 2))
    first = pick(logits, [of]).item()
    pick(logits, [of])
    assert first >= 5
    assert torch.equal(logits, raw)
    assert seen == [[[1, 2]], [[1, 2, first]]]


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        (lambda ids, scores: scores[:, :3], "A logits processor must return scores of shape (1, 10)."),
        (
            lambda ids, scores: scores.fill_(-torch.inf),
            "Biases, processors or the constraint of this request allow no next token.",
        ),
        (
            lambda ids, scores: scores * torch.nan,
            "Biases, processors or the constraint of this request allow no next token.",
        ),
        (lambda ids, scores: None, "A logits processor of this request failed: AttributeError: "),
    ],
    ids=["shape", "nothing left", "nan", "none"],
)
def test_a_processor_that_leaves_nothing_fails_its_own_row(processor, message):
    logits = random_logits(2, 10)
    bad, good = plan(1.0, logits_processors=(processor,)), plan(0.0)
    tokens = pick(logits, [bad, good])
    assert isinstance(bad.error, GenerationError)
    assert str(bad.error).startswith(message)
    assert good.error is None
    assert tokens[1] == logits[1].argmax()


@pytest.mark.parametrize("width", [300, 50_257])
@pytest.mark.parametrize("extreme", [torch.finfo(torch.float32).max, torch.finfo(torch.float32).min])
@pytest.mark.parametrize("options", [{}, {"top_p": 0.5}, {"top_k": 5}])
def test_scores_that_a_temperature_makes_infinite_fail_their_own_row(width, extreme, options):
    logits = random_logits(2, width)
    bad = plan(0.5, logits_processors=(lambda ids, scores: scores.fill_(extreme),), **options)
    good = plan(0.5, **options)
    tokens = pick(logits, [bad, good])
    assert str(bad.error) == "Biases, processors or the constraint of this request allow no next token."
    assert good.error is None
    assert tokens[1] == pick(logits[1:], [plan(0.5, **options)])[0]


@pytest.mark.parametrize("width", [50_257, 16_385])
def test_widths_that_are_no_multiple_of_a_block_give_tokens_inside(width):
    logits = torch.full((1, width), -20.0)
    logits[0, -1] = 20.0
    for options in ({}, {"top_p": 0.9}, {"top_k": 2}, {"min_p": 0.1}):
        assert pick(logits, [plan(0.7, **options)]).item() == width - 1


def test_a_top_k_beyond_the_tokens_that_are_possible_draws_one_of_them():
    logits = torch.full((2, WIDE), -torch.inf)
    logits[:, [3, 30_000]] = 1.0
    drawn = {pick(logits, [plan(top_k=50, seed=s), plan(top_k=50, top_p=0.9, seed=s)])[1].item() for s in range(30)}
    assert drawn == {3, 30_000}
    of = plan(1.0, top_logprobs=5)
    pick(torch.cat([logits, torch.full((2, 1), -torch.inf)], dim=1)[:1], [of])
    assert sorted(token for token, _ in of.picks[0].top_logprobs) == [3, 30_000]
