"""What is kept of recent calls, and for how long."""

import pytest
import torch
from transformers.cache_utils import DynamicCache

from mlflow_llm_plugins.generation.scoring.dynamic_caches import keep_prefixes
from tests.generation.conftest import random_prompts
from tests.models import random_model

MODEL = random_model("llama")


@torch.no_grad()
def computed(ids, cache=None):
    cache = DynamicCache(config=MODEL.config) if cache is None else cache
    MODEL(input_ids=torch.tensor([ids]), past_key_values=cache, use_cache=True)
    return cache


def kept_of(caches, ids):
    """Tokens of `ids` that need not be computed."""
    cache = caches.longest(ids)
    return 0 if cache is None else cache.get_seq_length()


def filled(max_tokens, *prompts):
    caches = keep_prefixes(max_tokens)
    for prompt in prompts:
        caches.keep(prompt, computed(prompt))
    return caches


def test_the_longest_common_beginning_counts():
    one, other, tail = random_prompts(60, 60, 9)
    caches = filled(1000, one, other[:40] + tail)
    assert kept_of(caches, one[:50] + tail) == 50
    assert kept_of(caches, other) == 40
    assert kept_of(caches, tail + one) == 0


def test_what_is_short_is_neither_kept_nor_taken():
    prompt, tail = random_prompts(60, 40)
    caches = filled(1000, prompt[:20])
    assert caches.tokens == 0
    assert kept_of(filled(1000, prompt), prompt[:20] + tail) == 0


def test_who_used_an_entry_last_decides_which_one_goes():
    prompts = random_prompts(40, 41, 42, 43, 44)
    caches = filled(1000, *prompts[:4])
    assert kept_of(caches, prompts[0]) == 40
    caches.keep(prompts[4], computed(prompts[4]))
    assert [kept_of(caches, prompt) for prompt in prompts] == [40, 0, 42, 43, 44]


def test_all_entries_together_stay_within_their_tokens():
    prompts = random_prompts(40, 50, 60, 200)
    caches = filled(100, *prompts[:3])
    assert caches.tokens == 60
    caches.keep(prompts[3], computed(prompts[3]))
    assert caches.tokens == 100
    assert kept_of(caches, prompts[3]) == 100


def test_an_entry_holds_no_more_memory_than_its_tokens():
    prompt = random_prompts(200)[0]
    caches = keep_prefixes(1000)
    caches.keep(prompt[:40], computed(prompt))
    layer = caches.longest(prompt).layers[0]
    assert layer.keys.untyped_storage().nbytes() == 40 * layer.keys[..., :1, :].nbytes


def test_rows_under_one_rubric_leave_one_entry_and_other_entries_alone():
    rubric, other, *rows = random_prompts(100, 60, 20, 30, 40, 50, 60)
    caches = filled(1000, other, *(rubric + row for row in rows))
    assert caches.tokens == 60 + 160
    assert kept_of(caches, rubric + rows[0]) >= 100
    assert kept_of(caches, other) == 60


@pytest.mark.parametrize("length", [60, 45])
def test_who_takes_a_cache_and_goes_on_leaves_the_kept_one_as_it_was(length):
    prompt, tail = random_prompts(60, 30)
    caches = filled(1000, prompt)
    before = caches.longest(prompt).layers[1].keys.clone()
    taken = computed(tail, caches.longest(prompt[:length] + tail))
    assert taken.get_seq_length() == length + 30
    assert torch.equal(caches.longest(prompt).layers[1].keys, before)


def test_closing_frees_all_and_keeps_nothing_more():
    prompt = random_prompts(60)[0]
    caches = filled(1000, prompt)
    caches.close()
    caches.keep(prompt, computed(prompt))
    assert caches.tokens == 0
    assert kept_of(caches, prompt) == 0
