"""Biases and penalties on the tokens of a history alone, against transformers' own over the whole vocabulary."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

from mlflow_llm_plugins.errors import GenerationError
from mlflow_llm_plugins.generation import GenerationRequest
from mlflow_llm_plugins.generation.sampling.processors import History, processors_of

VOCAB = 50
tokens = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=30)


def history_of(prompt, answer):
    history = History(prompt, len(answer))
    for token in answer:
        history.append(token)
    return history


def logits(seed):
    return torch.randn(VOCAB, generator=torch.Generator().manual_seed(seed)) * 3


@given(prompt=tokens, answer=tokens)
def test_a_history_knows_its_tokens_in_order_and_each_once(prompt, answer):
    history = history_of(prompt, answer)
    assert history.ids.tolist() == [prompt + answer]
    assert history.distinct.tolist() == list(dict.fromkeys(prompt + answer))
    assert history.distinct[history.places].tolist() == [prompt + answer]
    assert len(history) == len(prompt + answer)
    assert dict(history.answer) == {token: answer.count(token) for token in answer}


def test_a_token_beyond_the_longest_answer_is_only_counted():
    history = history_of([1, 2], [3])
    history.append(4)
    assert history.ids.tolist() == [[1, 2, 3]]
    assert history.answer == {3: 1, 4: 1}


@settings(max_examples=200, deadline=None)
@given(
    prompt=tokens,
    answer=tokens,
    penalty=st.floats(0.1, 3.0).filter(lambda value: value != 1),
    ngram=st.integers(0, 4),
    seed=st.integers(0, 99),
)
def test_penalties_over_the_history_are_transformers_own_over_the_vocabulary(prompt, answer, penalty, ngram, seed):
    request = GenerationRequest(prompt, repetition_penalty=penalty, no_repeat_ngram_size=ngram)
    scores = logits(seed)
    ids, expected = torch.tensor([prompt + answer]), scores.clone()[None]
    expected = RepetitionPenaltyLogitsProcessor(penalty)(ids, expected)
    if ngram:
        expected = NoRepeatNGramLogitsProcessor(ngram)(ids, expected)
    for processor in processors_of(request, len(prompt), frozenset()):
        processor(history_of(prompt, answer), scores)
    assert torch.equal(scores, expected[0])


@given(prompt=tokens, beyond=st.lists(st.integers(VOCAB, VOCAB + 8), min_size=1, max_size=3), seed=st.integers(0, 9))
def test_tokens_of_the_prompt_that_have_no_logit_are_passed_over(prompt, beyond, seed):
    request = GenerationRequest(prompt, repetition_penalty=1.5, no_repeat_ngram_size=2)
    scores, expected = logits(seed), logits(seed)
    wide = torch.cat([expected, torch.zeros(9)])
    for processor in processors_of(request, len(prompt), frozenset()):
        processor(history_of([*prompt, *beyond, *prompt], []), scores)
        processor(history_of([*prompt, *beyond, *prompt], []), wide)
    assert torch.equal(scores, wide[:VOCAB])


def test_a_bias_on_a_token_without_a_logit_is_an_error_that_names_it():
    (processor,) = processors_of(GenerationRequest([1], logit_bias={3: 1.0, VOCAB: 1.0}), 1, frozenset())
    with pytest.raises(GenerationError, match=r"^logit_bias names token 50, but the model has 50 logits\.$"):
        processor(history_of([1], []), logits(0))


def test_end_tokens_beyond_the_logits_are_no_fault():
    (processor,) = processors_of(GenerationRequest([1], min_new_tokens=2), 1, frozenset({-1, 3, VOCAB + 5}))
    scores = torch.zeros(VOCAB)
    processor(history_of([1], [2]), scores)
    assert scores.isinf().nonzero().tolist() == [[3]]
    processor(history_of([1], [2, 2]), scores.zero_())
    assert not scores.any()
