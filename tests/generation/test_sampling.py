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
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from mlflow_llm_plugins.generation import GenerationRequest
from mlflow_llm_plugins.generation.admission import AdmittedRequest
from mlflow_llm_plugins.generation.sampling import SamplingPlan, pick

WIDE = 40_000  # columns from which rows are looked at in blocks


def plan(temperature=1.0, top_k=None, top_p=None, min_p=None, seed=0, prompt=(1, 2), end=(), **options):
    request = GenerationRequest(
        prompt, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed, **options
    )
    return SamplingPlan.of(AdmittedRequest(request, list(prompt), 64, frozenset(end), 60.0))


def logprobs(of):
    return [one.logprob for one in of.picks]


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
    plans = [plan(0.0), plan(3.0, top_k=7)]
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
